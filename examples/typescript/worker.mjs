// A worker with OpenWorkflow's own package, as a WorkerPool's pods or anywhere else.
import { OpenWorkflow } from "openworkflow";
import { BackendPostgres } from "openworkflow/postgres";

// The manager sets these in the pods of a WorkerPool, and it migrates the database.
const { OPENWORKFLOW_POSTGRES_URL, OPENWORKFLOW_NAMESPACE_ID, OPENWORKFLOW_SCHEMA, OPENWORKFLOW_CONCURRENCY } = process.env;
const backend = await BackendPostgres.connect(OPENWORKFLOW_POSTGRES_URL, {
  namespaceId: OPENWORKFLOW_NAMESPACE_ID ?? "default",
  schema: OPENWORKFLOW_SCHEMA ?? "openworkflow",
  runMigrations: false,
});
const ow = new OpenWorkflow({ backend });

ow.defineWorkflow({ name: "greet-in-typescript" }, async ({ input, run, step }) => {
  const text = await step.run({ name: "compose", retryPolicy: { maximumAttempts: 1 } }, () => {
    if (!input?.name) throw new Error("name is empty");
    return `Hello, ${input.name}!`;
  });
  await step.sleep("think", "1s");
  const sentAt = await step.run({ name: "send", retryPolicy: { maximumAttempts: 5 } }, () => {
    console.log(`${run.id}/send`, text); // the same at every attempt: an idempotency key
    return new Date().toISOString();
  });
  return { text, sentAt };
});

const worker = ow.newWorker({ concurrency: Number(OPENWORKFLOW_CONCURRENCY ?? 10) });
await worker.start();
console.log("Worker started");

// Kubernetes ends pods with SIGTERM. Runs under way end, or park, before the process does.
for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, async () => {
    await worker.stop();
    await backend.stop();
  });
}
