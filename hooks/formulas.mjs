// One process a build: reads a JSON list of [tex, display] a line, answers with a JSON list of
// {html} or {error}.
import katex from "katex";
import { createInterface } from "node:readline";

const source = /<annotation.*?<\/annotation>/s; // the TeX once more, which no one sees or hears
const options = { output: "htmlAndMathml", throwOnError: true, strict: "error", trust: false };
// What KaTeX would shift out of its place; a root is 400em wide, and cut off.
const far = /(?:border-\w+-width|margin-\w+|top|bottom):-?(?:[3-9]\d|\d{3,})(?:\.\d+)?em/;

for await (const line of createInterface({ input: process.stdin })) {
  const answers = JSON.parse(line).map(([tex, displayMode]) => {
    try {
      const html = katex.renderToString(tex, { ...options, displayMode });
      if (far.test(html)) throw Error("a size of 30em or more, which would lie over the page");
      return { html: html.replace(source, "") };
    } catch (error) {
      return { error: error.message };
    }
  });
  process.stdout.write(JSON.stringify(answers) + "\n");
}
