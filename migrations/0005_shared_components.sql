-- A component is its tensors: one row, found in any number of models. Models get their hashes and the operator's corrections.

alter table models rename column digest to content_digest;
alter table models
    -- hex; the whole file, and what follows a safetensors header
    add column sha256 text,
    add column payload_sha256 text,
    -- {"type", "base", "prediction", "config": {component: config.json}}: what the operator says against the detection
    add column overrides jsonb not null default '{}';

create table model_components (
    model_id      text not null references models (id) on delete cascade,
    -- the part that it plays in this model
    kind          text not null,
    component_id  text not null references components (id),
    primary key (model_id, kind)
);

create index model_components_component on model_components (component_id);

insert into model_components (model_id, kind, component_id) select model_id, kind, id from components;

alter table components
    drop column model_id,
    -- a row whose tensors turned out to be those of another row; agents may still report it for a while
    add column merged_into text references components (id) on delete cascade,
    add column created_at timestamptz not null default now();

create index components_merged_into on components (merged_into) where merged_into is not null;

-- rows of equal content become one: the oldest
create temporary table merging on commit drop as
    select id, first_value(id) over (partition by digest order by id) as survivor from components where digest is not null;
update model_components link set component_id = m.survivor from merging m where link.component_id = m.id and m.id <> m.survivor;
delete from residency r using merging m where r.component_id = m.id and m.id <> m.survivor;
update components c set merged_into = m.survivor, digest = null from merging m where c.id = m.id and m.id <> m.survivor;

drop index components_digest;
create unique index components_digest on components (digest) where digest is not null;
