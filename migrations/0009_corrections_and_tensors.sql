-- Corrections decide how a model is read; the tensors of what was read can be listed.

alter table models
    -- {"type", "base"}: the corrections that the components were cut by; differs from `overrides` until the next scan
    add column read_as jsonb not null default '{}';

alter table model_components
    -- [[name in the file, [canonical names], dtype, shape, file, begin, end]]; null until the files were hashed
    add column tensors jsonb;

-- what still has to be hashed
create index model_components_without_tensors on model_components (model_id) where tensors is null;
create index components_without_digest on components (id) where digest is null and merged_into is null;
