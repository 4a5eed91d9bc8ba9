// A scene of fixed boxes: which of them stay as the thresholds move, and what removes the others.
import { build, choice, html, slider, svg, t } from "./base.js";
import { compare } from "./iou.js";

// Those of the figure; the boxes by descending score.
export const OBJECTS = [[8, 8, 46, 74], [28, 12, 66, 76], [82, 28, 114, 72]];
export const BOXES = [
  [9, 8, 46, 75],
  [28, 13, 67, 76],
  [81, 28, 114, 71],
  [5, 12, 44, 77],
  [34, 9, 70, 70],
  [3, 3, 45, 60],
  [88, 35, 118, 76],
  [17, 22, 60, 73],
];
export const SCORES = [0.95, 0.91, 0.86, 0.78, 0.72, 0.63, 0.54, 0.37];
const NAMES = [..."ABCDEFGH"];
const METHODS = ["NMS", "DIoU-NMS", t("Soft-NMS, linear", "Soft-NMS，线性"), t("Soft-NMS, Gaussian", "Soft-NMS，高斯")];
const SIGMA = 0.5;
// The corner of each box where its name has room: right, bottom; then the shift.
const CORNERS = [[0, 0, 3, 6], [1, 1, -5, -2], [1, 0, -3, 6], [0, 1, 3, -2], [1, 0, -3, 6], [0, 0, 3, 6], [1, 1, -3, -2], [1, 1, -3, -3]];

// Of each box whether it stays, its score afterwards, and what removed it.
export function suppress(method, threshold, least) {
  const state = SCORES.map((score) => ({ score, left: true, kept: false }));
  const drop = () => {
    for (const box of state) if (box.score < least) box.left = false;
  };
  drop();
  for (;;) {
    const best = state.reduce(
      (top, box, i) => (box.left && (top < 0 || box.score > state[top].score) ? i : top),
      -1,
    );
    if (best < 0) return state;
    state[best].left = false;
    state[best].kept = true;
    state.forEach((box, i) => {
      if (!box.left) return;
      const overlap = compare(BOXES[best], BOXES[i])[method === 1 ? "diou" : "iou"];
      if (method === 3) box.score *= Math.exp(-(overlap ** 2) / SIGMA);
      else if (overlap > threshold) {
        if (method === 2) box.score *= 1 - overlap;
        else Object.assign(box, { left: false, by: best, overlap });
      }
    });
    drop();
  }
}

// Objects that are found, each once, at an IoU of 0.5 or more.
export function found(state) {
  const free = new Set(OBJECTS);
  const kept = [...state.keys()].filter((i) => state[i].kept);
  for (const i of kept.sort((a, b) => state[b].score - state[a].score)) {
    const fits = [...free].map((object) => [compare(object, BOXES[i]).iou, object]);
    const [iou, object] = fits.sort((a, b) => b[0] - a[0])[0] ?? [0];
    if (iou >= 0.5) free.delete(object);
  }
  return OBJECTS.length - free.size;
}

export default function (host) {
  const twentieth = (at) => (at / 20).toFixed(2);
  const threshold = slider(t("IoU threshold", "IoU 阈值"), 0, 20, 8, twentieth);
  const least = slider(t("Score threshold", "分数阈值"), 0, 20, 0, twentieth);
  const method = choice(t("Method", "方法"), METHODS, 0);

  const rect = ([x1, y1, x2, y2], name) =>
    svg("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: name });
  const boxes = BOXES.map((box) => rect(box));
  const names = BOXES.map((box, i) => {
    const [right, bottom, x, y] = CORNERS[i];
    return svg("text", { x: box[2 * right] + x, y: box[1 + 2 * bottom] + y }, NAMES[i]);
  });
  const objects = OBJECTS.map((object) => rect(object, "truth"));
  const drawing = svg(
    "svg",
    { role: "img", class: "scene", viewBox: "0 0 121 80" },
    ...objects,
    ...boxes.toReversed(),
    ...names,
  );
  drawing.ariaLabel = t(
    "Three objects, two of them overlapping, and eight boxes around them",
    "三个物体，其中两个相互重叠，周围有八个框",
  );
  const table = html("table", { className: "fates" });
  const heads = [t("Box", "框"), t("Score", "分数"), t("Result", "结果")];

  function fate({ kept, by, overlap }) {
    if (kept) return t("kept", "保留");
    if (by === undefined) return t("score too low", "分数太低");
    const name = method.value ? "DIoU" : "IoU";
    return t("removed by ", "被 ") + NAMES[by] + t(", ", " 去掉，") + `${name} ${overlap.toFixed(2)}`;
  }

  function update() {
    threshold.input.disabled = method.value === 3;
    const state = suppress(method.value, threshold.value / 20, least.value / 20);
    boxes.forEach((box, i) => {
      const name = state[i].kept ? "kept" : "gone";
      box.setAttribute("class", name);
      names[i].setAttribute("class", name);
      box.style.setProperty("--value", `${100 * state[i].score}%`);
    });
    table.replaceChildren(
      html("tr", {}, ...heads.map((head) => html("th", { scope: "col" }, head))),
      ...state.map((box, i) => {
        const changed = box.score === SCORES[i] ? "" : ` → ${box.score.toFixed(2)}`;
        const score = html("td", {}, SCORES[i].toFixed(2) + changed);
        score.style.setProperty("--value", `${100 * box.score}%`);
        const className = box.kept ? "kept" : "gone";
        const name = html("th", { scope: "row" }, NAMES[i]);
        return html("tr", { className }, name, score, html("td", {}, fate(box)));
      }),
    );
    const kept = NAMES.filter((_, i) => state[i].kept);
    const hits = found(state);
    const list = kept.length ? t(": ", "：") + kept.join(t(", ", "、")) : "";
    const [all, count] = [BOXES.length, OBJECTS.length];
    const many = kept.length - hits;
    return [
      t(`Kept: ${kept.length} of ${all} boxes${list}.`, `${all} 个框保留 ${kept.length} 个${list}。`),
      t(
        `Objects found: ${hits} of ${count}; boxes too many: ${many}.`,
        `${count} 个物体找到 ${hits} 个；多出 ${many} 个框。`,
      ),
      ...(method.value === 3
        ? [t(`No IoU threshold: a factor exp(−IoU² / σ), σ = ${SIGMA}.`, `没有 IoU 阈值：乘以 exp(−IoU² / σ)，σ = ${SIGMA}。`)]
        : []),
    ];
  }

  const title = t("Try it: two thresholds", "试一试：两个阈值");
  const stage = html("div", { className: "beside" }, drawing, table);
  build(host, title, [threshold, least, method], [stage], update);
}
