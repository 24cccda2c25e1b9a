// A worker of OpenWorkflow's own package that serves "five", the workflow of five steps
// that do nothing, on tables that it creates itself.
//
//   OPENWORKFLOW_POSTGRES_URL=… PORT=… node peer.mjs
//
// It answers on PORT once it works, and stops on SIGTERM.
import { createServer } from "node:http";
import { OpenWorkflow } from "openworkflow";
import { BackendPostgres } from "openworkflow/postgres";

const backend = await BackendPostgres.connect(process.env.OPENWORKFLOW_POSTGRES_URL);
const ow = new OpenWorkflow({ backend });
ow.defineWorkflow({ name: "five" }, async ({ step }) => {
  let sum = 0;
  for (let i = 0; i < 5; i++) sum += await step.run({ name: `step-${i}` }, () => i);
  return sum;
});
const worker = ow.newWorker({ concurrency: 100 });
await worker.start();
createServer((_, response) => response.end("ok\n")).listen(Number(process.env.PORT), "127.0.0.1");
process.on("SIGTERM", async () => {
  await worker.stop();
  await backend.stop();
  process.exit(0);
});
