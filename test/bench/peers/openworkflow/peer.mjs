// A worker of OpenWorkflow's own package that serves workflows of steps that do nothing,
// "five" and, of STEPS steps, "long", on tables that it creates itself.
//
//   OPENWORKFLOW_POSTGRES_URL=… PORT=… STEPS=… CONCURRENCY=… CONNECTIONS=… node peer.mjs
//
// It answers on PORT when it is ready, and stops on SIGTERM.
import { createServer } from "node:http";
import { OpenWorkflow } from "openworkflow";
import { BackendPostgres } from "openworkflow/postgres";
import postgres from "postgres";

const url = process.env.OPENWORKFLOW_POSTGRES_URL;
await (await BackendPostgres.connect(url)).stop(); // creates the tables
// Like the pool of connect, but with as many connections as we say.
const backend = BackendPostgres.fromPool(
  postgres(url, { max: Number(process.env.CONNECTIONS), transform: { column: { from: postgres.toCamel } } }),
);
const ow = new OpenWorkflow({ backend });
const sequence = (steps) => async ({ step }) => {
  let sum = 0;
  for (let i = 0; i < steps; i++) sum += await step.run({ name: `step-${i}` }, () => i);
  return sum;
};
ow.defineWorkflow({ name: "five" }, sequence(5));
ow.defineWorkflow({ name: "long" }, sequence(Number(process.env.STEPS)));
const worker = ow.newWorker({ concurrency: Number(process.env.CONCURRENCY) });
await worker.start();
createServer((_, response) => response.end("ok\n")).listen(Number(process.env.PORT), "127.0.0.1");
process.on("SIGTERM", async () => {
  await worker.stop();
  await backend.stop();
  process.exit(0);
});
