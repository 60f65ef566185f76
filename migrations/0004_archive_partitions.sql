-- One partition of the archive per month, made before the first row of the month moves there.

create function ensure_archive_partition(month_of timestamptz) returns void language plpgsql as $$
declare
    first_day date := date_trunc('month', month_of at time zone 'UTC')::date;
    partition_name text := 'job_archive_' || to_char(first_day, 'YYYY_MM');
begin
    if to_regclass(partition_name) is null then
        execute format(
            'create table %I partition of job_archive for values from (%L) to (%L)',
            partition_name,
            first_day::timestamp at time zone 'UTC',
            (first_day + interval '1 month')::timestamp at time zone 'UTC'
        );
    end if;
end
$$;
