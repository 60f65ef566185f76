-- Statistics of tensors in rows, so that a page of them is read as a page. The column that held them as one list is read by the
-- previous release and goes with a later one.

create table validation_statistics (
    validation_id text not null references validations (id) on delete cascade,
    -- from 1, in the order of the files
    number        bigint not null,
    -- null for tensors that belong to none
    component     text,
    tensor        text not null,
    -- [component, tensor, dtype, [elements, nan, infinite, zero, subnormal], [mean, std, min, max]]
    facts         jsonb not null,
    primary key (validation_id, number)
);

insert into validation_statistics (validation_id, number, component, tensor, facts)
select v.id, t.number, t.facts ->> 0, t.facts ->> 1, t.facts
from validations v cross join lateral jsonb_array_elements(v.statistics) with ordinality as t (facts, number);
