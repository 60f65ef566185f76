-- Components and their digests follow from the canonical form of tensors. When a later build has another one, a scan reads headers again.

alter table models
    -- the version of the form that its components were cut and named by; all until now have the first
    add column canonical_form integer not null default 1;
