-- A mark is kept for a while after its file left the host, because the same file may come back. It counts from when a scan missed the file,
-- not from when it was found bad.

alter table corrupt_files
    -- when a scan first found the file in no model of the host; none while one has it
    add column left_at timestamptz;
