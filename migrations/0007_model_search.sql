-- What people say of models, apart from what files say; and the read model of lists and searches.

-- trusted: the owner of the database may create it
create extension if not exists pg_trgm;

create table model_metadata (
    model_id     text primary key references models (id) on delete cascade,
    title        text,
    description  text,
    tags         text[] not null default '{}',
    notes        text,
    rating       smallint check (rating between 0 and 5),
    license      text,
    extra        jsonb not null default '{}',
    version      bigint not null default 1,
    updated_at   timestamptz not null default now()
);

create table model_metadata_history (
    id        bigint generated always as identity primary key,
    model_id  text not null references models (id) on delete cascade,
    at        timestamptz not null default now(),
    who       text not null,
    version   bigint not null,
    before    jsonb not null,
    after     jsonb not null
);

create index model_metadata_history_model on model_metadata_history (model_id, id desc);

-- One narrow row for each model, with everything that lists show, filter and order by, so that a page costs the same whatever
-- else is kept of a model. Written by the triggers below and by nothing else.
create table model_search (
    model_id        text primary key references models (id) on delete cascade,
    name            text not null,
    -- of people, else of files
    title           text,
    -- type, base and prediction as the operator says, else as detected
    type            text not null,
    base            text not null,
    format          text not null,
    variant         text,
    prediction      text,
    size_bytes      bigint not null,
    state           text not null,
    reason          text,
    content_digest  text collate "C",
    sha256          text collate "C",
    payload_sha256  text collate "C",
    -- of people and of files, in lower case
    tags            text[] not null,
    -- name, title, tags and trigger words as they are written: for parts of names, and for what is written a little differently
    words           text not null,
    -- A name and title, B tags and trigger words, C path and author, D descriptions
    document        tsvector not null,
    created_at      timestamptz not null,
    updated_at      timestamptz not null
);

-- A text as words: separators gone, and once more cut where a capital follows a small letter, if that cuts anything. Not in SQL:
-- a function in SQL that cannot be inlined is planned anew by every statement that calls it.
create function search_text(original text) returns text language plpgsql immutable strict parallel safe as $$
begin
    return regexp_replace(case when original ~ '[[:lower:]][[:upper:]]'
        then original || ' ' || regexp_replace(original, '([[:lower:]])([[:upper:]])', '\1 \2', 'g') else original end,
        '[\x01-\x2f\x3a-\x40\x5b-\x60\x7b-\x7f]+', ' ', 'g');
end
$$;

-- Writes the whole row of a model anew.
create function model_search_renew(model text) returns void language plpgsql as $$
begin
    insert into model_search (model_id, name, title, type, base, format, variant, prediction, size_bytes, state, reason,
            content_digest, sha256, payload_sha256, tags, words, document, created_at, updated_at)
    select m.id, m.name, said.title, coalesce(m.overrides ->> 'type', m.type), coalesce(m.overrides ->> 'base', m.base), m.format,
        m.variant, coalesce(m.overrides ->> 'prediction', m.prediction), m.size_bytes, m.state, m.reason, m.content_digest,
        m.sha256, m.payload_sha256,
        array(select distinct lower(tag) from unnest(said.tags) as tag order by 1),
        left(concat_ws(' ', m.name, said.title, more.tagged), 1000),
        setweight(to_tsvector('simple', search_text(concat_ws(' ', m.name, said.title))), 'A')
            || setweight(to_tsvector('simple', search_text(more.tagged)), 'B')
            || setweight(to_tsvector('simple', search_text(concat_ws(' ', m.rel_path, said.author))), 'C')
            || setweight(to_tsvector('simple', search_text(regexp_replace(said.description, '<[^>]*>', ' ', 'g'))), 'D'),
        m.created_at, greatest(m.updated_at, u.updated_at)
    from models m left join model_metadata u on u.model_id = m.id
    cross join lateral (
        -- made once each: without the offset every use would make them anew
        select left(coalesce(u.title, extracted ->> 'title'), 1000) as title, left(extracted ->> 'author', 1000) as author,
            left(concat_ws(' ', u.description, extracted ->> 'description'), 16000) as description,
            u.tags || array(select jsonb_array_elements_text(case when jsonb_typeof(extracted -> 'tags') = 'array'
                then extracted -> 'tags' else '[]' end)) as tags,
            array(select jsonb_array_elements_text(case when jsonb_typeof(extracted -> 'trigger_words') = 'array'
                then extracted -> 'trigger_words' else '[]' end)) as triggers
        from (select m.metadata -> 'extracted') as file (extracted) offset 0
    ) as said
    cross join lateral (select left(array_to_string(said.tags || said.triggers, ' '), 16000) as tagged offset 0) as more
    where m.id = model
    on conflict (model_id) do update set name = excluded.name, title = excluded.title, type = excluded.type, base = excluded.base,
        format = excluded.format, variant = excluded.variant, prediction = excluded.prediction, size_bytes = excluded.size_bytes,
        state = excluded.state, reason = excluded.reason, content_digest = excluded.content_digest, sha256 = excluded.sha256,
        payload_sha256 = excluded.payload_sha256, tags = excluded.tags, words = excluded.words, document = excluded.document,
        created_at = excluded.created_at, updated_at = excluded.updated_at;
end
$$;

create function model_search_follow_model() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' or (new.name, new.rel_path, new.metadata) is distinct from (old.name, old.rel_path, old.metadata) then
        perform model_search_renew(new.id);
    else
        -- the text is as before, and making it is the costly part
        update model_search set type = coalesce(new.overrides ->> 'type', new.type),
            base = coalesce(new.overrides ->> 'base', new.base), format = new.format, variant = new.variant,
            prediction = coalesce(new.overrides ->> 'prediction', new.prediction), size_bytes = new.size_bytes,
            state = new.state, reason = new.reason, content_digest = new.content_digest, sha256 = new.sha256,
            payload_sha256 = new.payload_sha256, updated_at = greatest(updated_at, new.updated_at)
        where model_id = new.id;
    end if;
    return null;
end
$$;

create trigger model_search after insert or update on models for each row execute function model_search_follow_model();

create function model_search_follow_metadata() returns trigger language plpgsql as $$
begin
    perform model_search_renew(new.model_id);
    return null;
end
$$;

create trigger model_search after insert or update on model_metadata
    for each row execute function model_search_follow_metadata();

select model_search_renew(id) from models;

-- orders of lists
create index model_search_name on model_search (name, model_id);
create index model_search_size on model_search (size_bytes, model_id);
create index model_search_created on model_search (created_at, model_id);
create index model_search_updated on model_search (updated_at, model_id);
-- filters
create index model_search_type on model_search (type, base, name, model_id);
create index model_search_base on model_search (base, name, model_id);
create index model_search_sha256 on model_search (sha256) where sha256 is not null;
create index model_search_payload on model_search (payload_sha256) where payload_sha256 is not null;
create index model_search_content on model_search (content_digest) where content_digest is not null;
create index model_components_kind on model_components (kind, model_id);
-- text; short lists of pending entries: a search reads them whole, and a scan must not merge every row on its own
create index model_search_tags on model_search using gin (tags) with (gin_pending_list_limit = 256);
create index model_search_document on model_search using gin (document) with (gin_pending_list_limit = 256);
create index model_search_words on model_search using gin (words gin_trgm_ops) with (gin_pending_list_limit = 256);
