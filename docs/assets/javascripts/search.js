// Answers what the theme asks its search worker, by MiniSearch instead of lunr, which finds nothing
// for a slip of the finger and little for a question. The index comes from hooks/search.py.
importScripts("minisearch.js");

const SETUP = 0, READY = 1, QUERY = 2, RESULT = 3; // the theme's messages

const HAN = /\p{Script=Han}/u;
// Runs of Chinese, and words of other scripts.
const RUN = /\p{Script=Han}+|(?:(?!\p{Script=Han})[\p{L}\p{N}])+/gu;
const ABBREVIATION = /\b(?:\p{L}\.){2,}/gu; // i.i.d.

/** Chinese by pairs of signs: how a query is cut into words then does not matter. */
function tokens(text) {
  const found = [];
  const plain = text.normalize("NFKC").toLowerCase().replace(ABBREVIATION, (s) => s.replaceAll(".", ""));
  for (const [run] of plain.matchAll(RUN)) {
    if (!HAN.test(run)) found.push(run.replace(ending, ""));
    else if (run.length === 1) found.push(run);
    else for (let i = 2; i <= run.length; i++) found.push(run.slice(i - 2, i));
  }
  return found;
}

let index, known, synonyms, openings, questions, ending;

function setup({ config, docs }) {
  ending = new RegExp(config.ending);
  const words = config.questions.map((word) => HAN.test(word) ? word : `\\b${word}\\b`);
  questions = new RegExp(words.join("|"), "g");
  const options = {
    fields: ["title", "tags", "text", "words"],
    storeFields: ["location", "title", "text", "boost"],
    tokenize: tokens,
  };
  const short = new MiniSearch(options);
  short.addAll(docs.map((doc, id) => ({ ...doc, id })));
  // The words of the texts come by word: set in as MiniSearch stores them, in half the time that it
  // takes with texts.
  const stored = short.toJSON();
  const field = stored.fieldIds.words;
  const entries = new Map(stored.index);
  const lengths = docs.map(() => 0);
  for (const line of config.words.split("\n")) {
    const [word, ...gaps] = line.split(" ");
    for (const term of tokens(word)) {
      if (!entries.has(term)) entries.set(term, {});
      const counts = entries.get(term)[field] ??= {};
      let number = 0;
      for (const gap of gaps) {
        number += parseInt(gap, 36);
        if (!counts[number]) lengths[number]++;
        counts[number] = (counts[number] ?? 0) + 1;
      }
    }
  }
  lengths.forEach((length, number) => (stored.fieldLength[number][field] = length));
  stored.averageFieldLength[field] = lengths.reduce((a, b) => a + b, 0) / docs.length;
  known = entries;
  index = MiniSearch.loadJS({ ...stored, index: [...entries] }, options);
  synonyms = config.synonyms.map((names) => names.map(tokens));
  openings = new Map(docs.map((doc) => [doc.location, doc]));
}

/** The terms of a query, each with those that the glossary has for the same. */
function wants(query) {
  const plain = query.toLowerCase();
  let terms = tokens(plain.replace(questions, " "));
  if (!terms.length) terms = tokens(plain);
  const wanted = new Map(terms.map((term) => [term, new Set([term])]));
  for (const names of synonyms) {
    for (const name of names) {
      const at = terms.findIndex((_, i) => name.every((term, k) => terms[i + k] === term));
      if (at < 0) continue;
      for (const term of name) names.flat().forEach((other) => wanted.get(term).add(other));
    }
  }
  return wanted;
}

const OPTIONS = {
  tokenize: (text) => text.split(" "),
  processTerm: (term) => term,
  boost: { title: 3, tags: 2, text: 2 },
  boostDocument: (id, term, { boost }) => boost ?? 1,
  weights: { prefix: 0.6, fuzzy: 0.5 },
};

function find(wanted) {
  const typed = [...wanted.keys()].at(-1); // perhaps not to its end
  const every = [...new Set([...wanted.values()].flatMap((same) => [...same]))];
  const hits = index.search(every.join(" "), {
    ...OPTIONS,
    boostTerm: (term) => wanted.has(term) ? 1 : 0.3,
    prefix: (term) => term === typed || term.length === 1,
    fuzzy: (term) => known.has(term) || HAN.test(term) || term.length < 4 ? false : term.length < 6 ? 1 : 2,
  });
  if (hits.length) return hits;
  // Rather something far off than nothing: single signs, more slips.
  const signs = every.flatMap((term) => HAN.test(term) ? [...term] : term);
  return index.search(signs.join(" "), { ...OPTIONS, prefix: true, fuzzy: 0.4 });
}

function search(query) {
  const wanted = wants(query);
  const hits = find(wanted);
  const pages = new Map();
  for (const hit of hits) { // best first
    const address = hit.location.split("#")[0];
    if (!pages.has(address)) pages.set(address, { address, hits: [], score: 0, terms: new Set() });
    const page = pages.get(address);
    page.score += hit.score * 0.5 ** page.hits.push(hit);
    hit.queryTerms.forEach((term) => page.terms.add(term));
  }
  for (const page of pages.values()) {
    const met = [...wanted.values()].filter((same) => [...same].some((term) => page.terms.has(term)));
    page.score *= met.length / wanted.size;
  }
  return [...pages.values()].sort((a, b) => b.score - a.score).map((page) => item(page, query));
}

/** A page as the theme lists it: itself, then its sections, the best one unfolded. */
function item({ address, hits, score }, query) {
  const found = [...new Set(hits.flatMap((hit) => hit.terms))];
  const page = openings.get(address);
  const sections = hits.filter((hit) => hit.location !== address);
  // What the page is to mark when it opens.
  const said = (query.match(RUN) ?? []).filter((run) => run.length > 1 && found.includes(tokens(run)[0]));
  return [page, ...sections].map((hit) => ({
    location: hit.location,
    title: mark(hit.title, found),
    text: mark(hit.text ?? "", found),
    score: hit === page || hit === hits[0] ? score : 0,
    terms: Object.fromEntries(said.map((run) => [run, true])),
  }));
}

/** The text as HTML, with what was found marked: Chinese by signs, other scripts by words. */
function mark(text, terms) {
  const marked = new Uint8Array(text.length);
  for (const { 0: run, index: start } of text.matchAll(RUN)) {
    const plain = run.toLowerCase();
    for (const term of terms) {
      if (!HAN.test(run)) {
        if (plain.startsWith(term)) marked.fill(1, start, start + run.length);
      } else for (let at = -1; (at = plain.indexOf(term, at + 1)) >= 0;) {
        marked.fill(1, start + at, start + at + term.length);
      }
    }
  }
  const escape = { "&": "&amp;", "<": "&lt;", ">": "&gt;" };
  return text.replace(/[^]/gu, (sign, at) => marked[at] ? `<mark>${sign}</mark>` : escape[sign] ?? sign)
    .replaceAll("</mark><mark>", "");
}

addEventListener("message", ({ data: { type, data } }) => {
  if (type === SETUP) {
    setup(data);
    postMessage({ type: READY });
  } else if (type === QUERY) {
    postMessage({ type: RESULT, data: { items: data.trim() ? search(data) : [] } });
  }
});
