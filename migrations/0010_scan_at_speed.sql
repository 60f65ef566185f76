-- Scans of ten thousand files: what was read is told apart by a stamp, and the read model of searches is filled a statement at a time.

alter table model_locations
    -- of everything that an inspection on that host looked at beside the files themselves; none: read it again
    add column stamp text;
