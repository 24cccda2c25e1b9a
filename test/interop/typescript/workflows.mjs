// The workflows of the interop tests. ../goworker/workflows.go has the same ones:
// same names, same steps, same inputs and outputs.

const language = "typescript";

// workflows returns all workflows, as pairs of a specification and a function.
export function workflows(ow, ledger) {
  // work is a step that writes itself into the ledger and returns who has executed it.
  const work = (run, step, name, more = async () => {}, retryPolicy = {}) =>
    step.run({ name, retryPolicy }, async () => {
      await more(await ledger.enter(run.id, name));
      return language;
    });

  const definitions = {
    // steps has four of them, the third of which waits for its gate to be opened.
    steps: async ({ input, run, step }) => ({
      one: await work(run, step, "one"),
      two: await work(run, step, "two"),
      held: await work(run, step, "held", () => input.hold && ledger.gate(run.id)),
      last: await work(run, step, "last"),
    }),

    // nap sleeps between its steps.
    nap: async ({ input, run, step }) => {
      const one = await work(run, step, "one");
      await step.sleep("rest", `${input.milliseconds}ms`);
      return { one, last: await work(run, step, "last") };
    },

    // flaky has a step that fails the given number of times.
    flaky: async ({ input, run, step }) => {
      const fail = async (execution) => {
        if (execution <= input.failures) throw new Error(`execution ${execution} failed`);
      };
      const interval = `${input.milliseconds}ms`;
      return {
        one: await work(run, step, "one"),
        flaky: await work(run, step, "flaky", fail, {
          initialInterval: interval,
          backoffCoefficient: 1,
          maximumInterval: interval,
          maximumAttempts: input.attempts,
        }),
        last: await work(run, step, "last"),
      };
    },

    // parallel has three steps at once, and a fourth after them.
    parallel: async ({ run, step }) => {
      const [a, b, c] = await Promise.all(["a", "b", "c"].map((name) => work(run, step, name)));
      return { a, b, c, last: await work(run, step, "last") };
    },

    // echo returns its input, through a step.
    echo: async ({ input, run, step }) =>
      step.run({ name: "echo" }, async () => {
        await ledger.enter(run.id, "echo");
        return input;
      }),

    // failing fails outside of steps.
    failing: async ({ input }) => {
      throw new Error(input.message);
    },

    // parent has a child.
    parent: async ({ input, run, step }) => {
      const one = await work(run, step, "one");
      const child = await step.runWorkflow({ name: input.child, version: input.version }, input.input, {
        name: "child",
        ...(input.timeout && { timeout: input.timeout }),
      });
      return { one, child, last: await work(run, step, "last") };
    },

    // catching has a child whose failure it returns.
    catching: async ({ input, run, step }) => {
      try {
        await step.runWorkflow({ name: input.child }, input.input, { name: "child" });
      } catch (error) {
        if (error.name !== "StepError") throw error; // a park is an exception too
        return { failure: error.message, last: await work(run, step, "last") };
      }
    },

    // waiter waits for a signal.
    waiter: async ({ input, run, step }) => {
      const one = await work(run, step, "one");
      const signal = await step.waitForSignal({ name: "wait", signal: input.signal, timeout: input.milliseconds });
      return { one, received: signal !== null, data: signal && signal.data, last: await work(run, step, "last") };
    },

    // sender sends one.
    sender: async ({ input, run, step }) => {
      const one = await work(run, step, "one");
      const { workflowRunIds } = await step.sendSignal({ name: "send", signal: input.signal, data: input.data });
      return { one, recipients: workflowRunIds.length, last: await work(run, step, "last") };
    },
  };

  // listener waits for a signal again and again. Most waits end by their timeouts.
  definitions.listener = async ({ input, run, step }) => {
    let received = 0;
    for (let i = 0; i < input.waits; i++) {
      await work(run, step, `work ${i}`);
      const signal = await step.waitForSignal({ name: `wait ${i}`, signal: input.signal, timeout: input.milliseconds });
      if (signal !== null) received++;
    }
    return { received };
  };

  // caller sends many signals to listeners, and has a child now and then.
  definitions.caller = async ({ input, step }) => {
    for (let i = 0; i < input.sends; i++) {
      const name = input.signals[(input.first + i) % input.signals.length];
      await step.sendSignal({ name: `send ${i}`, signal: name, data: i });
      if (i % 5 === 4) await step.runWorkflow({ name: "echo" }, i, { name: `child ${i}` });
    }
    return { sent: input.sends };
  };

  // versioned tells which version of itself was executed.
  for (const version of [undefined, "1", "2"]) {
    definitions[version ? `versioned@${version}` : "versioned"] = async ({ run, step }) => ({
      version: version ?? "",
      by: await work(run, step, "by"),
    });
  }

  return new Map(
    Object.entries(definitions).map(([key, fn]) => {
      const [name, version] = key.split("@");
      return [key, { spec: { name, ...(version && { version }) }, fn }];
    }),
  );
}
