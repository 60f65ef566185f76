-- How fast the running attempt of a job goes, beside how far it is.
alter table job_progress add column bytes_per_second double precision;
