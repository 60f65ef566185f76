-- A component's digest is of the canonical form since 0005; one that was taken before, of the names in the file, would
-- refuse every load of the component. Digests are taken again by the next load, cache or hash job.
update components set digest = null;
