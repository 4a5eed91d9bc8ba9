// The theme fetches the search index on every page, and the sitemap of each language. Hold the
// index back, and the worker that reads it, until the reader turns to the search box; the worker
// is ours.
(() => {
  const script = new URL("search.js", document.currentScript.src);
  let use;
  const used = new Promise((resolve) => (use = resolve));
  const box = "[data-md-component=search], [for=__search]";
  for (const name of ["focusin", "pointerover", "touchstart"]) {
    addEventListener(name, (event) => event.target.closest?.(box) && use(), { passive: true });
  }
  if (new URLSearchParams(location.search).has("h")) use(); // words to mark, from a search result

  // The box listens for keys alone, which leaves out what is pasted, spoken or picked by an input method.
  addEventListener("input", ({ target }) => {
    if (target.dataset.mdComponent === "search-query") target.dispatchEvent(new Event("keyup"));
  });

  const { open, send } = XMLHttpRequest.prototype;
  XMLHttpRequest.prototype.open = function (method, url, ...rest) {
    this.file = String(url).split("/").pop();
    return open.call(this, method, url, ...rest);
  };
  XMLHttpRequest.prototype.send = function (body) {
    if (this.file === "sitemap.xml") return; // for a language switch that we do without
    if (this.file === "search_index.json") used.then(() => send.call(this, body));
    else send.call(this, body);
  };

  const RealWorker = Worker;
  window.Worker = class extends EventTarget {
    constructor() {
      super();
      used.then(() => {
        this.worker = new RealWorker(script);
        this.worker.onmessage = ({ data }) =>
          this.dispatchEvent(new MessageEvent("message", { data }));
      });
    }
    postMessage(data) {
      used.then(() => this.worker.postMessage(data));
    }
  };
})();
