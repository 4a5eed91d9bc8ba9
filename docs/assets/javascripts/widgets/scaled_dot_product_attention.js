// Weights of a few queries and keys: temperature, causal mask, padding.
import { build, checkbox, html, number, slider, t } from "./base.js";

// Those of the figure.
export const Q = [
  [-1.1, -1.2, -0.3, -0.4],
  [0.8, 0.7, -0.3, -2.1],
  [0.3, -1.3, 0.3, 0.3],
  [0.1, 1.2, 1.1, -0.2],
  [-1.4, -1.7, 0.6, 0.8],
];
export const K = [
  [0.6, -1.6, -0.3, 1.9],
  [-0.2, -0.7, 0.6, 0.3],
  [-0.2, -0.7, 0.9, 0.5],
  [1.2, 0.1, -1.2, -0.0],
  [-0.5, -0.3, -1.6, 1.7],
];
const TEMPERATURES = [0.05, 0.1, 0.2, 0.5, 0.7, 1, 1.4, 2, 5, 10, 20];

// Whether query i of n may attend to key j of m: the queries are the last n positions.
export function mayAttend(i, j, n, m, causal, keys) {
  return (!causal || j <= i + m - n) && j < keys;
}

// One row of weights; zeros where nothing may be attended to.
export function softmax(scores, allowed) {
  const highest = Math.max(...scores.filter((_, j) => allowed[j]));
  const exponentials = scores.map((score, j) => (allowed[j] ? Math.exp(score - highest) : 0));
  const sum = exponentials.reduce((a, b) => a + b, 0);
  return exponentials.map((value) => (sum ? value / sum : 0));
}

export default function (host) {
  const m = K.length;
  const width = K[0].length;
  const degree = slider(
    t("Temperature τ", "温度 τ"),
    0,
    TEMPERATURES.length - 1,
    TEMPERATURES.indexOf(1),
    (at) => number(TEMPERATURES[at]),
  );
  const queries = slider(t("Queries N", "查询数 N"), 1, m, m);
  const keys = slider(t("Real keys", "真实的键"), 0, m, m);
  const causal = checkbox(t("Causal mask", "因果掩码"));

  const table = html("table", { className: "weights" });
  const masked = () =>
    html("td", { className: "masked" }, html("span", {}, t("masked", "被遮住")));

  function update() {
    const tau = TEMPERATURES[degree.value];
    const n = queries.value;
    const rows = Q.slice(m - n).map((q, i) => {
      const scores = K.map(
        (k) => k.reduce((sum, value, c) => sum + value * q[c], 0) / (tau * Math.sqrt(width)),
      );
      const allowed = K.map((_, j) => mayAttend(i, j, n, m, causal.value, keys.value));
      const weights = softmax(scores, allowed);
      const total = weights.reduce((a, b) => a + b, 0);
      const trace = weights.reduce((sum, p) => sum + p * (total - p), 0);
      return { position: m - n + i + 1, allowed, weights, trace };
    });
    const heads = [...K.map((_, j) => `${t("key", "键")} ${j + 1}`), "1\u00a0−\u00a0Σp²"];
    table.replaceChildren(
      html("caption", {}, t("Weights in percent", "权重（百分比）")),
      html("tr", {}, html("td"), ...heads.map((head) => html("th", { scope: "col" }, head))),
      ...rows.map(({ position, allowed, weights, trace }) =>
        html(
          "tr",
          {},
          html("th", { scope: "row" }, `${t("query", "查询")} ${position}`),
          ...weights.map((p, j) => {
            if (!allowed[j]) return masked();
            const cell = html("td", {}, (100 * p).toFixed(1));
            cell.style.setProperty("--weight", `${70 * p}%`);
            return cell;
          }),
          html("td", { className: "trace" }, keys.value ? trace.toFixed(3) : "–"),
        ),
      ),
    );
    const largest = Math.max(...rows.flatMap(({ weights }) => weights));
    const mean = rows.reduce((sum, { trace }) => sum + trace, 0) / n;
    const formula = `A = softmax(QKᵀ / (τ√D)), τ = ${tau}, D = ${width}`;
    const told = t(
      `Largest weight ${(100 * largest).toFixed(1)} %; mean of 1 − Σp²: ${mean.toFixed(3)}.`,
      `最大的权重 ${(100 * largest).toFixed(1)} %；1 − Σp² 的均值 ${mean.toFixed(3)}。`,
    );
    if (!keys.value) {
      const none = t("No key is left: every weight is zero.", "没有可看的键：所有权重都是零。");
      return [formula, none];
    }
    if (tau * Math.sqrt(width) !== 1) return [formula, told];
    return [formula, told, t("Here τ = 1/√D: products that are not scaled.", "此时 τ = 1/√D：点积没有缩放。")];
  }

  const title = t("Try it: temperature and mask", "试一试：温度与掩码");
  build(host, title, [degree, queries, keys, causal], [table], update);
}
