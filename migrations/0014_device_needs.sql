-- Which models were loaded onto a device and still need a component there: what an unload of another model must spare.

alter table residency add column models text[] not null default '{}';
