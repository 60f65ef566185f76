-- What was done with a pipeline is found by its name after it was removed, too.

-- of entries `removed`; older ones are found by the pipeline's id
alter table pipeline_history add column name text;

create index pipeline_history_name on pipeline_history (name) where name is not null;
