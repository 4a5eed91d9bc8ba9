// A note to readers whose browser prefers the other language; once answered, it stays away.
(() => {
  const link = document.querySelector("[data-language-switch]");
  const answered = "language-hint-answered";
  const remember = () => {
    try {
      localStorage.setItem(answered, "yes");
    } catch {} // storage may be forbidden
  };
  let asked = false;
  try {
    asked = localStorage.getItem(answered) !== null;
  } catch {}
  link.addEventListener("click", remember);

  const other = link.hreflang;
  const preferred = navigator.languages.find((code) => /^(en|zh)\b/.test(code));
  if (asked || !preferred || !preferred.startsWith(other)) return;

  const words = {
    zh: { text: "这一页有中文版：", link: "阅读中文版", close: "不再提示" },
    en: { text: "This page is also in English:", link: "Read it in English", close: "Do not show again" },
  }[other];
  const hint = document.createElement("aside");
  hint.className = "language-hint";
  hint.lang = other;
  hint.setAttribute("aria-label", words.link);
  const go = document.createElement("a");
  go.href = link.href;
  go.hreflang = other;
  go.textContent = words.link;
  go.addEventListener("click", remember);
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "×";
  close.setAttribute("aria-label", words.close);
  close.addEventListener("click", () => {
    remember();
    hint.remove();
  });
  hint.append(words.text, " ", go, close);
  document.body.append(hint);
})();

// The theme makes copy buttons, and tags in search results, into landmarks without a name; and it
// names its icons by a title alone, which it takes away while that shows as a tooltip.
(() => {
  const mend = () => {
    for (const nav of document.querySelectorAll("nav.md-code__nav, .md-search nav.md-tags")) {
      nav.role = "none";
    }
    for (const icon of document.querySelectorAll("article :is(button, .md-content__button)[title]")) {
      icon.ariaLabel = icon.title;
    }
  };
  mend();
  new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
})();

// For keyboard and screen reader. The theme opens drawer and search by labels of hidden boxes, which
// neither of the two can find: each label gets a button.
(() => {
  const one = (selector) => document.querySelector(selector);
  const all = (selector) => document.querySelectorAll(selector);
  const drawer = one("#__drawer");
  const sidebar = one(".md-sidebar--primary");
  const search = one(".md-search");
  const query = one(".md-search__input");

  const names = { __drawer: one(".md-nav--primary").ariaLabel, __search: query.ariaLabel };
  const kinds = ".md-overlay, .md-header__button, .md-search__icon, .md-nav__link, li .md-nav__title";
  for (const label of all(`label:is(${kinds}):not([for^=__palette], .md-sidebar--secondary *)`)) {
    const box = label.control;
    const button = document.createElement("button");
    const panel = label.closest("li")?.querySelector("nav");
    button.type = "button";
    if (search.contains(label)) button.tabIndex = -1; // Tab leaves the search
    button.ariaLabel = names[box.id] ?? (label.textContent.trim() || panel.ariaLabel);
    button.append(...label.childNodes);
    label.append(button);
    button.addEventListener("click", () => box.click());
    const tell = () => (button.ariaExpanded = box.checked);
    box.addEventListener("change", tell);
    tell();
  }

  // Focus follows into the drawer, into a panel of it, and back; meanwhile the page behind rests.
  const behind = "[data-md-component=skip], .md-header, .md-main ~ *, .md-top, .language-hint";
  drawer.addEventListener("change", () => {
    for (const part of all(`${behind}, .md-main__inner > :not(.md-sidebar--primary)`)) {
      part.inert = drawer.checked;
    }
    const stops = [...sidebar.querySelectorAll("[href], button")];
    if (drawer.checked) stops.find((e) => e.checkVisibility({ visibilityProperty: true })).focus();
    else if (!document.activeElement.matches("[href]")) one(".md-header [for] > button").focus();
  });
  sidebar.addEventListener("change", ({ target: box }) => {
    const [opens, closes] = box.parentElement.querySelectorAll(`[for=${box.id}] > button`);
    (box.checked ? closes : opens).focus();
  });
  matchMedia("(min-width: 76.25em)").addEventListener("change", () => drawer.checked && drawer.click());

  // On a phone the box, while shut, has no size: the button before it is the stop.
  const wide = matchMedia("(min-width: 60em)");
  (wide.onchange = () => (query.tabIndex = wide.matches ? 0 : -1))();

  let before; // where the reader was
  query.addEventListener("focus", ({ relatedTarget: from }) => {
    if (!search.contains(from)) before = from;
  });
  addEventListener("keydown", ({ key, target }) => {
    if (key !== "Escape") return;
    if (drawer.checked) drawer.click();
    if (search.contains(target)) before?.focus();
    for (const tip of all(".md-tooltip2--active")) tip.classList.remove("md-tooltip2--active");
  }, true);

  // Without a mouse, back to top means the focus too.
  one(".md-top")?.addEventListener("click", ({ detail }) => detail || one(".md-skip").focus());

  // What changes is said; what only adorns is not; what is chosen has its own name, not the next one's.
  for (const part of all(".md-dialog__inner, .md-search-result__meta")) part.role = "status";
  for (const icon of all("svg:not([role])")) icon.ariaHidden = true;
  for (const option of all(".md-option")) {
    option.ariaLabel = option.labels[0].title;
    option.checked = !option.nextElementSibling.hidden;
  }
  for (const icon of all(".md-source-file .md-icon")) {
    icon.role = "img";
    icon.ariaLabel = icon.title;
  }
  for (const link of sidebar.querySelectorAll("a.md-nav__link--active")) link.ariaCurrent = "page";
  query.ariaInvalid = false; // it is only empty

  // A formula is a stop where it has more to show than fits, or is not laid out yet.
  const sizes = new ResizeObserver((changed) => {
    for (const { target: { firstElementChild: formula }, target } of changed) {
      const laidOut = formula.checkVisibility({ contentVisibilityAuto: true });
      if (laidOut && target.scrollWidth <= target.clientWidth) target.removeAttribute("tabindex");
      else target.tabIndex = 0;
    }
  });
  document.fonts.ready.then(() => all("x-math.display").forEach((formula) => sizes.observe(formula)));
})();

// Copy a whole file: the one that the link after the button leads to. A copy may wait for a request
// only as a promise that is given to the clipboard at once: so Safari wants it.
for (const button of navigator.clipboard ? document.querySelectorAll("[data-copied]") : []) {
  const said = button.parentElement.querySelector("[role=status]");
  const read = async () => {
    const answer = await fetch(button.nextElementSibling.href);
    if (!answer.ok) throw answer;
    return new Blob([await answer.text()], { type: "text/plain" });
  };
  button.hidden = false;
  button.addEventListener("click", async () => {
    said.textContent = "";
    const done = navigator.clipboard.write([new ClipboardItem({ "text/plain": read() })]);
    said.textContent = await done.then(() => button.dataset.copied, () => button.dataset.failed);
  });
}

// What site.css keeps waiting is laid out for print, whose fonts have to be there before, and at the
// first key: Tab, End and the browser's own search want all of the page.
(() => {
  const fonts = {
    "1em KaTeX_Main": ".katex",
    "bold 1em KaTeX_Main": ".mathbf",
    "italic 1em KaTeX_Math": ".mathnormal",
    "1em KaTeX_Size1": ".size1, .delim-size1, .small-op",
    "1em KaTeX_Size2": ".size2, .large-op",
    "1em KaTeX_Size3": ".size3",
    "1em KaTeX_Size4": ".size4, .delim-size4",
    "1em KaTeX_AMS": ".amsrm, .mathbb",
    "1em KaTeX_Caligraphic": ".mathcal",
  };
  addEventListener("load", () => {
    for (const [font, classes] of Object.entries(fonts)) {
      if (document.querySelector(`x-math :is(${classes})`)) document.fonts.load(font);
    }
  });
  const layOut = ({ target }) => {
    if (target.matches?.("input")) return; // who searches leaves the page
    for (const part of document.querySelectorAll(".md-content__inner > *")) {
      part.style.contentVisibility = "visible";
    }
    removeEventListener("keydown", layOut);
  };
  addEventListener("beforeprint", layOut);
  addEventListener("keydown", layOut);
})();
