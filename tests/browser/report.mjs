// The report in a browser: no fault of axe-core, no error, no request, nothing wider than the screen.
//
//   npm install --prefix /tmp/browser playwright-core axe-core     (not part of the repository)
//   NODE_PATH=/tmp/browser/node_modules node tests/browser/report.mjs reports/index.html [/usr/bin/chromium] [SHOTS]
//
// With a third argument a screenshot of each page, width and colour scheme is written into that folder.
import { createRequire } from "node:module";
import { resolve } from "node:path";

const require = createRequire(`${process.env.NODE_PATH ?? "."}/`);
const { chromium } = require("playwright-core");
const axe = require.resolve("axe-core/axe.min.js");
const [page = "reports/index.html", executablePath = "/usr/bin/chromium", shots] = process.argv.slice(2);
const args = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const faults = [];

const browser = await chromium.launch({ executablePath, args });
for (const width of [1400, 390]) {
  for (const colorScheme of ["light", "dark"]) {
    const where = `${width} px, ${colorScheme}`;
    const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme });
    const tab = await context.newPage();
    tab.on("pageerror", (error) => faults.push(`${where}: ${error.message}`));
    tab.on("request", (asked) => {
      if (/^https?:/.test(asked.url())) faults.push(`${where}: asks for ${asked.url()}`);
    });
    await tab.goto(`file://${resolve(page)}`);
    await tab.waitForTimeout(1500); // charts
    const wide = await tab.evaluate(() => document.documentElement.scrollWidth);
    if (wide > width) faults.push(`${where}: ${wide} px wide`);
    const empty = await tab.evaluate(() => [...document.querySelectorAll(".plot")].filter((e) => !e.querySelector("svg")).length);
    if (empty) faults.push(`${where}: ${empty} charts are empty`);
    await tab.addScriptTag({ path: axe });
    const { violations } = await tab.evaluate(() => globalThis.axe.run());
    for (const each of violations) faults.push(`${where}: ${each.impact} ${each.id}: ${each.nodes[0].html}`);
    if (shots) await tab.screenshot({ path: `${shots}/${width}-${colorScheme}.png`, fullPage: true });
    if (await tab.locator(".wall > li button").count()) {
      await tab.locator(".wall > li:not([hidden]) button").first().click();
      const before = await tab.textContent("#large-title");
      await tab.keyboard.press("ArrowRight");
      if ((await tab.textContent("#large-title")) === before) faults.push(`${where}: arrow keys do not turn prompts`);
      await tab.keyboard.press("Escape");
      if (await tab.locator("#large").isVisible()) faults.push(`${where}: Escape does not close the large pictures`);
    }
    await context.close();
  }
}
await browser.close();
for (const fault of faults) console.log(fault);
console.log(faults.length ? `${faults.length} faults` : "no faults");
process.exit(faults.length ? 1 : 0);
