// One pass of graphile-worker with its default settings, in a process of its own:
//   node graphile.mjs migrate
//   node graphile.mjs drain JOBS CONCURRENCY   -> {"seconds": s}
//   node graphile.mjs latency SAMPLES          -> {"waited_ms": [...]}
// DATABASE_URL names the database. The answer is one line of JSON.
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const { Logger, run, runMigrations } = require("graphile-worker");
const { Client } = require("pg");

const connectionString = process.env.DATABASE_URL;
const logger = new Logger(() => () => {});
const [mode, ...numbers] = process.argv.slice(2);

async function connect() {
  const client = new Client({ connectionString });
  await client.connect();
  return client;
}

function start(concurrency, noop) {
  return run({ connectionString, concurrency, logger, noHandleSignals: true, taskList: { noop } });
}

const add = (client, jobs) =>
  client.query("select graphile_worker.add_job('noop', '{\"noop\": true}'::json) from generate_series(1, $1::int)", [jobs]);

// completions are written after the handler has returned
async function untilEmpty(client) {
  for (;;) {
    const { rows } = await client.query("select exists (select 1 from graphile_worker._private_jobs) as some");
    if (!rows[0].some) return;
  }
}

async function drain(jobs, concurrency) {
  let left = Infinity;
  let last = () => {};
  const runner = await start(concurrency, async () => {});
  runner.events.on("job:complete", () => {
    if (--left === 0) last();
  });
  const batch = async (count) => {
    const done = new Promise((resolve) => (last = resolve));
    left = count;
    await client.query("begin");
    await add(client, count);
    await client.query("commit");
    const began = performance.now();
    await done;
    await untilEmpty(client);
    return (performance.now() - began) / 1000;
  };
  const client = await connect();
  await batch(concurrency * 20);
  const seconds = await batch(jobs);
  await client.end();
  await runner.stop();
  return { seconds };
}

async function latency(samples) {
  let started = () => {};
  const runner = await start(1, async () => started(performance.now()));
  const one = async () => {
    const handler = new Promise((resolve) => (started = resolve));
    const began = performance.now();
    await runner.addJob("noop", { noop: true });
    return (await handler) - began;
  };
  await one();
  const waited_ms = [];
  for (let number = 0; number < samples; number++) {
    await new Promise((resolve) => setTimeout(resolve, 5 + ((number * 7) % 13)));
    waited_ms.push(await one());
  }
  await runner.stop();
  return { waited_ms };
}

const [first, second] = numbers.map(Number);
let answer = {};
if (mode === "migrate") await runMigrations({ connectionString, logger });
else if (mode === "drain") answer = await drain(first, second);
else if (mode === "latency") answer = await latency(first);
else throw new Error(`unknown mode ${mode}`);
console.log(JSON.stringify(answer));
