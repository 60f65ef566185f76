-- A first scan lists models at once and makes their texts after that: the row that lists and filters read is written with the model,
-- what a search by words reads follows. Which rows wait for it is known here, so that nothing is forgotten.

alter table model_search
    -- its texts are not made yet, or are of an older state of the model
    add column text_due boolean not null default false;
create index model_search_due on model_search (model_id) where text_due;

-- Metadata is half of what a scan writes; this compression takes a fifth of the time. A server that was built without it keeps its own.
do $$
begin
    alter table models alter column evidence set compression lz4, alter column metadata set compression lz4;
    alter table model_search alter column filler set compression lz4;
exception when feature_not_supported then
    raise notice 'this server has no lz4; metadata stays compressed as it was';
end
$$;

-- Written by functions only, which look at `models` for every row: a check of each row once more costs a scan a tenth of its time.
alter table model_search drop constraint model_search_model_id_fkey;
create function model_search_follow_gone() returns trigger language plpgsql as $$
begin
    delete from model_search s using gone where s.model_id = gone.id;
    return null;
end
$$;
create trigger model_search_gone after delete on models
    referencing old table as gone for each statement execute function model_search_follow_gone();

-- What people and files say of these models, people first, and the texts that searches read of it. What a caller does not use of
-- it is not made.
create function model_said(these text[]) returns table (id text, title text, tags text[], words text, document tsvector,
    updated_at timestamptz) language sql stable as $$
    select m.id, said.title, array(select distinct lower(tag) from unnest(said.tags) as tag order by 1),
        left(concat_ws(' ', m.name, said.title, more.tagged), 1000),
        setweight(to_tsvector('simple', search_text(concat_ws(' ', m.name, said.title))), 'A')
            || setweight(to_tsvector('simple', search_text(more.tagged)), 'B')
            || setweight(to_tsvector('simple', search_text(concat_ws(' ', m.rel_path, said.author))), 'C')
            || setweight(to_tsvector('simple', search_text(regexp_replace(said.description, '<[^>]*>', ' ', 'g'))), 'D'),
        greatest(m.updated_at, u.updated_at)
    from models m left join model_metadata u on u.model_id = m.id
    cross join lateral (
        -- made once each: without the offsets every use would make them anew, and unpack all metadata for it
        select left(coalesce(u.title, extracted ->> 'title'), 1000) as title, left(extracted ->> 'author', 1000) as author,
            left(concat_ws(' ', u.description, extracted ->> 'description'), 16000) as description,
            u.tags || array(select jsonb_array_elements_text(case when jsonb_typeof(extracted -> 'tags') = 'array'
                then extracted -> 'tags' else '[]' end)) as tags,
            array(select jsonb_array_elements_text(case when jsonb_typeof(extracted -> 'trigger_words') = 'array'
                then extracted -> 'trigger_words' else '[]' end)) as triggers
        from (select m.metadata -> 'extracted' offset 0) as file (extracted) offset 0
    ) as said
    cross join lateral (select left(array_to_string(said.tags || said.triggers, ' '), 16000) as tagged offset 0) as more
    where m.id = any(these)
$$;

-- Writes what lists and filters read of these models; their texts are due then, and until they are made those of before are found.
create function model_search_list(these text[]) returns void language sql as $$
    insert into model_search as s (model_id, name, title, type, base, format, variant, prediction, size_bytes, state, reason,
        content_digest, sha256, payload_sha256, tags, words, document, created_at, updated_at, kinds, hosts, text_due)
    select m.id, m.name, said.title, coalesce(m.overrides ->> 'type', m.type), coalesce(m.overrides ->> 'base', m.base), m.format,
        m.variant, coalesce(m.overrides ->> 'prediction', m.prediction), m.size_bytes, m.state, m.reason, m.content_digest, m.sha256,
        m.payload_sha256, said.tags, '', '', m.created_at, said.updated_at,
        array(select kind from model_components where model_id = m.id order by 1),
        array(select host from model_locations where model_id = m.id order by 1), true
    from model_said(these) as said join models m using (id) order by m.id
    on conflict (model_id) do update set name = excluded.name, title = excluded.title, type = excluded.type, base = excluded.base,
        format = excluded.format, variant = excluded.variant, prediction = excluded.prediction, size_bytes = excluded.size_bytes,
        state = excluded.state, reason = excluded.reason, content_digest = excluded.content_digest, sha256 = excluded.sha256,
        payload_sha256 = excluded.payload_sha256, tags = excluded.tags, created_at = excluded.created_at,
        updated_at = excluded.updated_at, kinds = excluded.kinds, hosts = excluded.hosts, text_due = true
$$;

-- Makes the texts of these models, which are listed.
create function model_search_read(these text[]) returns void language plpgsql as $$
declare
    documents tsvector[];
begin
    with written as (
        update model_search s set words = said.words, document = said.document, text_due = false
        from model_said(these) as said where s.model_id = said.id returning s.document
    )
    select array_agg(document) into documents from written;
    perform search_words_learn(documents);
end
$$;

-- Writes the whole rows of these models anew.
create or replace function model_search_renew(these text[]) returns void language plpgsql as $$
begin
    perform model_search_list(these);
    perform model_search_read(these);
end
$$;

-- Makes texts that are due, of so many models at most; of how many. Who has written such a row and not yet committed makes it himself.
create function model_search_read_due(most bigint) returns bigint language plpgsql as $$
declare
    these text[];
begin
    these := array(select model_id from model_search where text_due order by model_id limit most for update skip locked);
    perform model_search_read(these);
    return cardinality(these);
end
$$;
