// A process that executes and starts runs with OpenWorkflow's own package.
//
//   node peer.mjs [WORKFLOW[@VERSION]...]    executes up to ten runs of these workflows at once
//
// OPENWORKFLOW_POSTGRES_URL and OPENWORKFLOW_NAMESPACE_ID say where. It migrates first, unless
// RUN_MIGRATIONS is false. It reads one
// command a line, as JSON, and answers each with one line: {"id", "result"} or
// {"id", "error"}. The first line that it writes says that it is connected.
import { createInterface } from "node:readline";
import { OpenWorkflow } from "openworkflow";
import { BackendPostgres } from "openworkflow/postgres";
import postgres from "postgres";
import { workflows } from "./workflows.mjs";

const url = process.env.OPENWORKFLOW_POSTGRES_URL;
const namespaceId = process.env.OPENWORKFLOW_NAMESPACE_ID;

// ledger counts what is executed; the test has made its tables.
const sql = postgres(url, { max: 4, onnotice: () => {} });
const ledger = {
  // enter writes an execution down and returns how many there are of this step.
  async enter(runId, step) {
    const [row] = await sql`
      WITH entry AS (INSERT INTO ledger (run_id, step, language) VALUES (${runId}, ${step}, 'typescript'))
      SELECT count(*)::int + 1 AS execution FROM ledger WHERE run_id = ${runId} AND step = ${step}`;
    return row.execution;
  },
  // gate waits until the run's gate is open for this language.
  async gate(runId) {
    for (;;) {
      const open = await sql`SELECT FROM gates WHERE run_id = ${runId} AND language = 'typescript'`;
      if (open.length > 0) return;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  },
};

const backend = await BackendPostgres.connect(url, { namespaceId, runMigrations: process.env.RUN_MIGRATIONS !== "false" });
const ow = new OpenWorkflow({ backend });
const known = workflows(ow, ledger);
for (const key of process.argv.slice(2)) {
  const { spec, fn } = known.get(key);
  ow.implementWorkflow(spec, fn);
}
if (process.argv.length > 2) await ow.newWorker({ concurrency: 10 }).start();

const handles = new Map();
const date = (text) => (text ? new Date(text) : undefined);
const commands = {
  async start({ workflow, version, input, key, availableAt, deadlineAt }) {
    const handle = await ow.runWorkflow({ name: workflow, ...(version && { version }) }, input, {
      idempotencyKey: key,
      availableAt: date(availableAt),
      deadlineAt: date(deadlineAt),
    });
    handles.set(handle.workflowRun.id, handle);
    return handle.workflowRun.id;
  },
  result: ({ run }) => handles.get(run).result({ timeoutMs: 120_000 }),
  cancel: ({ run }) => ow.cancelWorkflowRun(run),
  signal: ({ signal, data, key }) => ow.sendSignal({ signal, data, idempotencyKey: key }).then((sent) => sent.workflowRunIds),
  // pages reads everything in pages of the given size, as OpenWorkflow's dashboard does.
  async pages({ limit }) {
    const all = async (list) => {
      const rows = [];
      for (let after; ; ) {
        const page = await list({ limit, ...(after && { after }) });
        rows.push(...page.data);
        after = page.pagination.next;
        if (!after) return rows;
      }
    };
    const runs = await all((page) => backend.listWorkflowRuns(page));
    for (const run of runs) {
      run.steps = await all((page) => backend.listStepAttempts({ workflowRunId: run.id, ...page }));
    }
    return { runs, counts: await backend.countWorkflowRuns() };
  },
};

const answer = (line) => process.stdout.write(JSON.stringify(line) + "\n");
createInterface({ input: process.stdin })
  .on("line", async (line) => {
    const { id, op, ...args } = JSON.parse(line);
    try {
      answer({ id, result: (await commands[op](args)) ?? null });
    } catch (error) {
      answer({ id, error: error.message });
    }
  })
  .on("close", () => process.exit(0));
answer({ ready: true });
