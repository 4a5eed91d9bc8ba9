// One process a build: reads a JSON list of [tex, display] a line, answers with a JSON list of
// {html} or {error}.
import katex from "katex";
import { createInterface } from "node:readline";

const options = { output: "htmlAndMathml", throwOnError: true, strict: "error", trust: false };

for await (const line of createInterface({ input: process.stdin })) {
  const answers = JSON.parse(line).map(([tex, displayMode]) => {
    try {
      return { html: katex.renderToString(tex, { ...options, displayMode }) };
    } catch (error) {
      return { error: error.message };
    }
  });
  process.stdout.write(JSON.stringify(answers) + "\n");
}
