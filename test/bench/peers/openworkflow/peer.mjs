// A worker of OpenWorkflow's own package that serves workflows of steps that do nothing,
// "five" and, of STEPS steps, "long", on tables that it creates itself.
//
//   OPENWORKFLOW_POSTGRES_URL=… PORT=… STEPS=… node peer.mjs
//
// It answers on PORT once it works, and stops on SIGTERM.
import { createServer } from "node:http";
import { OpenWorkflow } from "openworkflow";
import { BackendPostgres } from "openworkflow/postgres";

const backend = await BackendPostgres.connect(process.env.OPENWORKFLOW_POSTGRES_URL);
const ow = new OpenWorkflow({ backend });
const sequence = (steps) => async ({ step }) => {
  let sum = 0;
  for (let i = 0; i < steps; i++) sum += await step.run({ name: `step-${i}` }, () => i);
  return sum;
};
ow.defineWorkflow({ name: "five" }, sequence(5));
ow.defineWorkflow({ name: "long" }, sequence(Number(process.env.STEPS)));
const worker = ow.newWorker({ concurrency: 100 });
await worker.start();
createServer((_, response) => response.end("ok\n")).listen(Number(process.env.PORT), "127.0.0.1");
process.on("SIGTERM", async () => {
  await worker.stop();
  await backend.stop();
  process.exit(0);
});
