// Looks at OpenWorkflow's dashboard with a browser.
//
//   node browser.mjs URL RUN...
//
// It opens the list of runs, then the first run by a click in the list and the others by
// their addresses, and there each step in turn. It prints, as JSON, the text of each page and what went wrong: errors on the
// console, exceptions, and requests without a good answer.
import { chromium } from "playwright-core";

const [url, ...runs] = process.argv.slice(2);
const list = `${url}/?limit=100`;
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox"], // which root needs
});
const page = await browser.newPage({ viewport: { width: 1400, height: 1000 } });
page.setDefaultTimeout(30_000);

const problems = [];
page.on("console", (message) => message.type() === "error" && problems.push(`console: ${message.text()}`));
page.on("pageerror", (error) => problems.push(`exception: ${error.message}`));
page.on("response", (response) => response.status() >= 400 && problems.push(`${response.status()}: ${response.url()}`));
page.on("requestfailed", (request) => {
  // What is still under way when a page is left is aborted.
  const why = request.failure()?.errorText;
  if (why !== "net::ERR_ABORTED") problems.push(`${why}: ${request.url()}`);
});
// The dashboard takes the editor that it shows JSON in from the internet. A loader that
// loads nothing stands in for it.
await page.route(
  (address) => address.origin !== new URL(url).origin,
  (route) =>
    route.fulfill({
      contentType: "text/javascript",
      body: "self.require = Object.assign(() => {}, { config() {} });",
    }),
);

const pages = {};
const look = async (name) => {
  await page.waitForLoadState("networkidle");
  pages[name] = await page.locator("body").innerText();
};
// click opens a run. The list is drawn anew every two seconds, so a click may be lost.
const click = async (run) => {
  for (let tries = 5; ; tries--) {
    await page.locator(`a[href="/runs/${run}"]`).click();
    try {
      await page.waitForURL(`**/runs/${run}*`, { timeout: 5_000 });
      return;
    } catch (error) {
      if (tries === 1) throw error;
    }
  }
};
try {
  await page.goto(list);
  await look("list");
  await click(runs[0]);
  for (const run of runs) {
    if (run !== runs[0]) await page.goto(`${url}/runs/${run}`);
    await page.getByRole("heading", { name: "Steps", exact: true }).waitFor();
    for (const step of await page.getByRole("option").all()) await step.click();
    await look(run);
  }
} catch (error) {
  problems.push(`${error.message} at ${page.url()}, which shows ${await page.locator("body").innerText()}`);
}
await browser.close();
console.log(JSON.stringify({ pages, problems }));
