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

// The theme makes copy buttons, and tags in search results, into landmarks without a name.
(() => {
  const mend = () => {
    for (const nav of document.querySelectorAll("nav.md-code__nav, .md-search nav.md-tags")) {
      nav.setAttribute("role", "none");
    }
  };
  mend();
  new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
})();
