// The theme fetches the search index on every page. Hold that back, and the worker that reads it,
// until the reader turns to the search box.
(() => {
  let use;
  const used = new Promise((resolve) => (use = resolve));
  const box = "[data-md-component=search], [for=__search]";
  for (const name of ["focusin", "pointerover", "touchstart"]) {
    addEventListener(name, (event) => event.target.closest?.(box) && use(), { passive: true });
  }

  const { open, send } = XMLHttpRequest.prototype;
  XMLHttpRequest.prototype.open = function (method, url, ...rest) {
    this.isIndex = String(url).endsWith("search/search_index.json");
    return open.call(this, method, url, ...rest);
  };
  XMLHttpRequest.prototype.send = function (body) {
    if (this.isIndex) used.then(() => send.call(this, body));
    else send.call(this, body);
  };

  const RealWorker = Worker;
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      used.then(() => {
        this.worker = new RealWorker(url);
        this.worker.onmessage = ({ data }) =>
          this.dispatchEvent(new MessageEvent("message", { data }));
      });
    }
    postMessage(data) {
      used.then(() => this.worker.postMessage(data));
    }
  };
})();
