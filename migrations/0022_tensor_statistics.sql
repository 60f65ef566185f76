-- What the numbers of each tensor are like, beside what a validation of level `weights` found.

-- [[component or null, tensor, dtype, [elements, nan, infinite, zero, subnormal], [mean, std, min, max]]] in the order of the files;
-- of the newest such report of a model on a host only
alter table validations add column statistics jsonb;
