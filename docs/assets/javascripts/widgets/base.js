// Figures that the reader can change. Markdown hangs a widget on a figure, which stays where scripts
// do not run: ![…](….svg "…"){ widget=name }. The module name.js, beside this one, is loaded when the
// figure comes near; its default export gets the element and builds a form in the figure's place.
const chinese = document.documentElement.lang.startsWith("zh");

// The text in the language of the page.
export const t = (en, zh) => (chinese ? zh : en);

// A number as it is printed, with a real minus sign.
export const number = (value) => String(value).replace("-", "−");

export function html(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// A control is a label and what it labels. `show` gives the words for a value.
export function slider(text, min, max, value, show = number) {
  const input = html("input", { type: "range", min, max, defaultValue: value, ariaLabel: text });
  const shown = html("b", { ariaHidden: true });
  const label = html("label", {}, html("span", {}, text, " ", shown), input);
  return {
    label,
    input,
    get value() {
      return Number(input.value);
    },
    // Where the highest value depends on the other controls; none is possible below the lowest.
    set max(highest) {
      input.max = Math.max(highest, input.min);
      input.disabled = highest < input.min;
    },
    tell() {
      shown.textContent = input.disabled ? "–" : show(Number(input.value));
      input.ariaValueText = shown.textContent;
    },
  };
}

// One of a few; the value is its place.
export function choice(text, options, first) {
  const list = options.map((option, value) =>
    html("option", { value, defaultSelected: value === first }, option),
  );
  const input = html("select", { ariaLabel: text }, ...list);
  const label = html("label", {}, html("span", {}, text), input);
  return { label, input, get value() { return Number(input.value); }, tell() {} };
}

export function checkbox(text) {
  const input = html("input", { type: "checkbox" });
  const label = html("label", { className: "check" }, input, text);
  return { label, input, get value() { return input.checked; }, tell() {} };
}

// Build the form. `update` redraws the stage and returns the sentences that say what is to be seen.
export function build(host, title, controls, stage, update) {
  const said = html("output");
  const again = html("button", { type: "button" }, t("Reset", "重置"));
  const form = html(
    "form",
    {},
    html(
      "fieldset",
      {},
      html("legend", {}, title),
      html("div", { className: "controls" }, ...controls.map(({ label }) => label), again),
      ...stage,
      said,
    ),
  );
  const refresh = () => {
    said.replaceChildren(...update().map((sentence) => html("span", {}, sentence)));
    for (const control of controls) control.tell();
  };
  form.addEventListener("input", refresh);
  form.addEventListener("submit", (event) => event.preventDefault());
  again.addEventListener("click", () => {
    // Twice: how far a slider goes depends on the others.
    for (let turn = 0; turn < 2; turn++) {
      form.reset();
      refresh();
    }
  });
  host.append(form);
  refresh();
  return refresh;
}

// The style comes with the first widget. If something does not load, the figure stays.
let style;
function loadStyle(resolve, reject) {
  const href = new URL("../../stylesheets/widgets.css", import.meta.url);
  document.head.append(html("link", { rel: "stylesheet", href, onload: resolve, onerror: reject }));
}

// Built when it comes near, or at the first key: Tab has to find what is in it.
customElements.define(
  "x-widget",
  class extends HTMLElement {
    connectedCallback() {
      const begin = async () => {
        near.disconnect();
        removeEventListener("keydown", begin);
        const module = import(`./${this.getAttribute("name")}.js`);
        await (style ??= new Promise(loadStyle));
        (await module).default(this);
      };
      const near = new IntersectionObserver(
        (seen) => seen.some((entry) => entry.isIntersecting) && begin(),
        { rootMargin: "100% 0%" },
      );
      near.observe(this);
      addEventListener("keydown", begin);
    }
  },
);
