// One axis resized: which pixels each output reads, and with which weights.
import { build, checkbox, choice, number, slider, svg, t } from "./base.js";

// The first five are those of the figure.
const VALUES = [0.15, 0.7, 0.35, 0.9, 0.5, 0.25, 0.8, 0.05];
const MODES = ["nearest", "nearest-exact", "bilinear", "bilinear, antialias"];

const range = (n) => Array.from({ length: n }, (_, i) => i);
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

// Where an output lies in the input, not clipped; position 0 is the centre of pixel 0.
export function sourcePosition(i, size, out, alignCorners) {
  if (alignCorners) return i * ((size - 1) / Math.max(out - 1, 1));
  return (i + 0.5) * (size / out) - 0.5;
}

export function nearestIndex(i, size, out, exact) {
  return exact ? Math.floor(((2 * i + 1) * size) / (2 * out)) : Math.floor((i * size) / out);
}

// The weight of every pixel in output i.
export function weights(i, size, out, mode, alignCorners) {
  const row = range(size).fill(0);
  if (mode < 2) {
    row[nearestIndex(i, size, out, mode === 1)] = 1;
    return row;
  }
  const at = sourcePosition(i, size, out, alignCorners);
  if (mode === 2) {
    const inside = clamp(at, 0, size - 1);
    const left = Math.floor(inside);
    row[left] += 1 - (inside - left);
    row[Math.min(left + 1, size - 1)] += inside - left;
    return row;
  }
  const half = Math.max(size / out, 1);
  const hats = row.map((_, j) => Math.max(1 - Math.abs(j - at) / half, 0));
  const sum = hats.reduce((a, b) => a + b, 0);
  return hats.map((hat) => hat / sum);
}

export default function (host) {
  const size = slider(t("Input size", "输入大小"), 1, VALUES.length, 5);
  const out = slider(t("Output size", "输出大小"), 1, 16, 8);
  const position = slider(t("Output position", "输出位置"), 0, 7, 2);
  const mode = choice(t("Mode", "方式"), MODES, 2);
  const align = checkbox("align_corners");
  const drawing = svg("svg", { role: "img", class: "stack" });
  drawing.ariaLabel = t("Output pixels joined to the input pixels they read", "输出像素与其所读输入像素的连线");

  function draw(n, o, rows, chosen, marks) {
    const width = drawing.clientWidth || 600;
    const [top, bottom, tall] = [24, 112, 30];
    const unit = Math.min(width / n, 110);
    const start = (width - n * unit) / 2;
    const x = (place) => start + (place + 0.5) * unit;
    const step = n / o;
    const middle = (i) => x((i + 0.5) * step - 0.5);
    drawing.setAttribute("viewBox", `0 0 ${width} 164`);
    const text = (at, y, words) => svg("text", { x: at, y, class: "number" }, words);
    const box = (at, y, wide, value, attributes) => {
      const made = svg("rect", { x: at, y, width: wide, height: tall, ...attributes });
      made.style.setProperty("--value", `${10 + 65 * value}%`);
      return made;
    };
    const shapes = range(n).flatMap((j) => [
      box(x(j - 0.5), top, unit, VALUES[j], { class: "value" }),
      text(x(j), top - 8, `${j}`),
      text(x(j), top + 19, VALUES[j].toFixed(2)),
      svg("circle", { cx: x(j), cy: top + tall, r: 2.5 }),
    ]);
    const lines = [];
    rows.forEach((row, i) => {
      const value = row.reduce((sum, w, j) => sum + w * VALUES[j], 0);
      const wide = step * unit;
      const here = i === chosen ? " frame" : "";
      const attributes = { "data-at": i, class: `value${here}` };
      (here ? lines : shapes).push(box(middle(i) - wide / 2, bottom, wide, value, attributes));
      if (wide > 14) shapes.push(text(middle(i), bottom + tall + 16, `${i}`));
      if (wide > 30) lines.push(text(middle(i), bottom + 19, value.toFixed(2)));
      row.forEach((w, j) => {
        if (!w) return;
        const d = `M${x(j)} ${top + tall}L${middle(i)} ${bottom}`;
        const line = svg("path", { d, "data-read": `${i},${j}`, class: here.trim() });
        line.style.strokeWidth = `${0.6 + 2.4 * w}px`;
        line.style.opacity = 0.35 + 0.65 * w;
        (here ? lines : shapes).push(line);
      });
      if (!marks) return;
      const at = x(clamp(marks[i], 0, n - 1));
      const y = top + tall + 3;
      const points = `${at},${y} ${at - 4},${y + 7} ${at + 4},${y + 7}`;
      lines.push(svg("polygon", { points, class: "mark" }));
    });
    drawing.replaceChildren(...shapes, ...lines);
  }

  function update() {
    const [n, o] = [size.value, out.value];
    position.max = o - 1;
    align.input.disabled = mode.value !== 2;
    const aligned = mode.value === 2 && align.value;
    const rows = range(o).map((i) => weights(i, n, o, mode.value, aligned));
    const places = range(o).map((i) => sourcePosition(i, n, o, aligned));
    const i = position.value;
    draw(n, o, rows, i, mode.value < 2 ? undefined : places);
    const said = [];
    if (mode.value === 0) {
      said.push(t(`Output ${i}: `, `输出 ${i}：`) + `⌊${i} · ${n} / ${o}⌋ = ${nearestIndex(i, n, o, false)}`);
    } else if (mode.value === 1) {
      const index = nearestIndex(i, n, o, true);
      said.push(t(`Output ${i}: `, `输出 ${i}：`) + `⌊(2 · ${i} + 1) · ${n} / (2 · ${o})⌋ = ${index}`);
    } else {
      const at = number(places[i].toFixed(4));
      const inside = clamp(places[i], 0, n - 1);
      const clipped = inside === places[i] || mode.value === 3;
      said.push(
        t(`Output ${i} lies at ${at} in the input`, `输出 ${i} 位于输入的 ${at} 处`) +
          (clipped ? "" : t(`, clipped to ${inside}`, `，截断为 ${inside}`)) +
          t(".", "。"),
      );
    }
    const read = rows[i].flatMap((w, j) => (w ? [`${w.toFixed(4)} · ${VALUES[j].toFixed(2)}`] : []));
    const value = rows[i].reduce((sum, w, j) => sum + w * VALUES[j], 0);
    const list = rows[i].flatMap((w, j) => (w ? [j] : [])).join(t(", ", "、"));
    said.push(t(`It reads ${list}: `, `读取 ${list}：`) + `${read.join(" + ")} = ${value.toFixed(4)}`);
    if (mode.value !== 2) {
      said.push(t("align_corners needs plain bilinear.", "align_corners 只用于不带抗混叠的双线性。"));
    }
    return said;
  }

  const title = t("Try it: positions and weights", "试一试：位置与权重");
  const refresh = build(host, title, [size, out, position, mode, align], [drawing], update);
  new ResizeObserver(refresh).observe(drawing);
  for (const kind of ["pointerover", "click"]) {
    drawing.addEventListener(kind, ({ target }) => {
      if (!target.dataset.at || target.dataset.at === position.input.value) return;
      position.input.value = target.dataset.at;
      refresh();
    });
  }
}
