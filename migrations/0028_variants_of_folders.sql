-- Of a folder's variants the operator chooses the one that is read. Each host reads its own files: until it did so as the operator says, what it
-- reported is of another variant. (`models.variant` is another thing, the dtype of the weights.)

alter table model_locations
    -- the chosen variant that this host's files were read with; none while nobody chose one
    add column read_variant text;
