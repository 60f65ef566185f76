-- A library of `bench.models` models as large farms have them, the same at every run: eight hosts, names of common and of rare
-- words, mostly LoRAs and checkpoints, descriptions, tags, hashes, parts, places, some of it loaded, some of it validated.
-- Written through the tables of the product, so that its triggers fill what lists read.

create function pg_temp.pick(words text[], seed text, skew float8 default 1) returns text language sql immutable as $$
    select words[1 + floor(cardinality(words) * power((hashtextextended(seed, 7) & 4294967295)::float8 / 4294967296, skew))::int]
$$;

create function pg_temp.share(seed text) returns float8 language sql immutable as $$
    select (hashtextextended(seed, 11) & 4294967295)::float8 / 4294967296
$$;

-- about 60,000 words that nobody else has
create function pg_temp.rare(seed text) returns text language sql immutable as $$
    select string_agg(pg_temp.pick(array['ka','zor','mi','ren','tal','vo','shi','bra','nu','lek','dri','sa','pho','qui','xan','lu',
        'mor','ti','gha','ye','fen','ro','ska','bel','jun','we','hy','cor','ny','ul','eth','va','pri','om','dag','zu','ist','arn','ob'],
        seed || syllable), '' order by syllable) from generate_series(1, 3) as syllable
$$;

create temporary table wordlists as select
    array['realistic','dream','dark','epic','anime','ultra','hyper','soft','neon','vivid','ancient','crystal','golden','silent','wild',
        'cosmic','gothic','pastel','retro','noir','cyber','mystic','frozen','burning','tiny','giant','royal','rusty','velvet','lucid'] as adjectives,
    array['mix','vision','portrait','style','diffusion','shaper','landscape','merge','girl','knight','city','forest','dragon','castle',
        'photo','comic','engine','robot','flower','ocean','mountain','cat','wolf','samurai','witch','armor','dress','eyes','hands','lighting',
        'anatomy','sketch','pixel','film','poster','interior','building','car','ship','horse','temple','garden','night','sunset','smoke'] as nouns,
    array['style','anime','photorealistic','character','portrait','concept','clothing','landscape','base model','fantasy','sci-fi','cute',
        'woman','man','animal','vehicle','background','tool','pose','celebrity','horror','comic','3d','pixel art','retro','game','watercolor',
        'architecture','food','nature','cyberpunk','steampunk','manga','furry','mecha','historical','logo','texture','lighting','detail'] as tags,
    regexp_split_to_array('this model was trained on a large set of pictures to get better hands faces light and color use it with a low
        weight between and for best results works well together with other styles recommended sampler steps scale negative prompt
        version improves contrast detail skin texture background composition merged from several checkpoints trigger word needed please
        credit the author when you share your images thanks for all support more examples can be found in the gallery', '\s+') as prose;

insert into hosts (name, incarnation, agent_version, slots, ram_budget_bytes)
select 'host-' || n, 'incarnation-' || n, '1', 4, 64::bigint << 30 from generate_series(1, 8) n;
insert into host_leases (incarnation, host, lease_until)
select 'incarnation-' || n, 'host-' || n, now() + interval '1 day' from generate_series(1, 8) n;
insert into roots (host, name, path) select name, 'main', '/srv/models' from hosts;

create temporary table sentences as
select s, (select string_agg(pg_temp.pick(prose, s || 'p' || k, 1.3), ' ' order by k) from generate_series(1, 10 + s % 25) k) as text
from generate_series(0, 999) s, wordlists;
alter table sentences add primary key (s);

create temporary table made as
select n, '01JD' || lpad(upper(to_hex(n)), 22, '0') as id, seed,
    case when part < 0.62 then 'lora' when part < 0.84 then 'checkpoint' when part < 0.90 then 'embedding' when part < 0.93 then 'controlnet'
        when part < 0.95 then 'vae' when part < 0.97 then 'unet' when part < 0.98 then 'upscaler' else 'unknown' end as type,
    case when base < 0.42 then 'sd15' when base < 0.80 then 'sdxl' when base < 0.90 then 'flux' when base < 0.93 then 'sd21'
        when base < 0.95 then 'sd3' else 'unknown' end as base,
    pg_temp.pick(adjectives, seed || 'a', 1.6) as adjective, pg_temp.pick(nouns, seed || 'n', 1.6) as noun, pg_temp.rare(seed) as rare,
    to_jsonb(array(select distinct pg_temp.pick(tags, seed || 't' || k, 2) from generate_series(1, 1 + (n % 6)) k)) as tags,
    array(select pg_temp.rare(seed || 'w' || k) from generate_series(1, n % 3) k) as triggers,
    (select string_agg(text, ' ') from sentences where s in (n * 7 % 1000, n * 11 % 997, n % 13)) as description
from (select n, 'm' || n as seed, pg_temp.share('type' || n) as part, pg_temp.share('base' || n) as base
    from generate_series(1, current_setting('bench.models')::int) n) as numbers, wordlists;

insert into models (id, name, type, base, format, variant, prediction, root, rel_path, size_bytes, content_digest, sha256, payload_sha256,
    state, reason, metadata, created_at, updated_at)
select id, name, type, base, case when n % 29 = 0 then 'diffusers' when n % 11 = 0 then 'torch_zip' else 'safetensors' end,
    case when n % 5 = 0 then 'fp32' when n % 17 = 0 then 'bf16' else 'fp16' end,
    case when type in ('checkpoint', 'unet') then case when n % 13 = 0 then 'v_prediction' else 'epsilon' end end,
    'main', base || '/' || type || '/' || name || '.safetensors',
    (case type when 'checkpoint' then 2e9 when 'lora' then 1e8 when 'unet' then 4e9 else 3e7 end * (0.5 + pg_temp.share(seed || 's') * 4))::bigint,
    case when n % 33 <> 0 then md5(seed || 'b') || md5(seed || 'c') end, case when n % 33 <> 0 then md5(seed || 'd') || md5(seed || 'e') end,
    case when n % 33 <> 0 then md5(seed || 'f') || md5(seed || 'g') end, case when n % 97 = 0 then 'missing' else 'available' end,
    case when type = 'unknown' then 'no rule matches its tensors' end,
    jsonb_build_object('extracted', jsonb_build_object('rules', 1, 'tags', tags, 'trigger_words', to_jsonb(triggers),
        'description', description, 'author', pg_temp.rare('author' || n % 3000), 'title', initcap(adjective || ' ' || noun || ' ' || rare))),
    now() - n * interval '37 seconds', now() - (n % 7919) * interval '61 seconds'
from (select *, case n % 4
        when 0 then adjective || initcap(noun) || '_v' || n when 1 then rare || '-' || noun || '-' || base || '-' || n
        when 2 then initcap(rare) || ' ' || adjective || ' ' || n else noun || '_' || rare || '_' || adjective || '_' || n end as name
    from made) as named;

insert into model_metadata (model_id, title, tags, rating, notes)
select id, initcap(rare || ' ' || noun), array['mine', adjective], n % 6, description from made where n % 10 = 0;

insert into components (id, kind, bytes, param_count, tensor_count, dtype)
select '01JC' || lpad(upper(to_hex(n)), 19, '0') || part, kind, 100000000, 50000000, 200, 'F16'
from made, lateral (select * from (values ('checkpoint', 'unet', '00A'), ('checkpoint', 'text_encoder', '00B'),
    ('lora', 'lora', '00C'), ('vae', 'vae', '00D'), ('unet', 'unet', '00A'), ('controlnet', 'controlnet', '00E'),
    ('embedding', 'embedding', '00F')) as parts (of, kind, part) where of = made.type) as parts;
-- checkpoints share a few hundred VAEs
insert into components (id, kind, bytes, param_count, tensor_count, dtype)
select '01JC' || lpad(upper(to_hex(n)), 19, '0') || '00G', 'vae', 160000000, 80000000, 250, 'F16' from generate_series(0, 299) n;
insert into model_components (model_id, kind, component_id)
select '01JD' || lpad(substr(id, 5, 19), 22, '0'), kind, id from components where id not like '%00G'
union all
select id, 'vae', '01JC' || lpad(upper(to_hex(n % 300)), 19, '0') || '00G' from made where type = 'checkpoint';

insert into model_locations (model_id, host, root, rel_path, files)
select m.id, 'host-' || host, 'main', m.rel_path, jsonb_build_array(jsonb_build_object('rel_path', '', 'size_bytes', m.size_bytes,
    'mtime_ns', made.n, 'inode', made.n, 'dev', 1))
from models m join made on made.id = m.id, lateral (select 1 + made.n % 7 union select 8 where made.n % 500 = 0) as place (host)
where m.state = 'available';

insert into residency (host, device, component_id, tier, state, bytes, incarnation, since)
select 'host-' || h, case when n % 2 = 0 then '' else 'host-' || h || '/cuda:0' end, '01JC' || lpad(upper(to_hex(n)), 19, '0') || '00A',
    case when n % 2 = 0 then 'ram' else 'vram' end, 'ready', 100000000, 'incarnation-' || h, now()
from (select n, 1 + n % 7 as h from made where type = 'checkpoint' and n % 211 = 0) as chosen;

insert into validations (id, model_id, job_id, host, level, verdict, errors, warnings, infos, findings, omitted, tensors, bytes, seconds, files)
select '01JV' || lpad(upper(to_hex(made.n)), 22, '0'), l.model_id, l.model_id, l.host, 'weights',
    case when made.n % 700 = 0 then 'unsafe' when made.n % 70 = 0 then 'invalid' when made.n % 35 = 0 then 'degraded' else 'ok' end,
    0, 0, 0, '[]', 0, 1, 1, 1, case when made.n % 15 = 0 then '[]' else l.files end
from made join model_locations l on l.model_id = made.id and l.host <> 'host-8' where made.n % 5 = 0;
