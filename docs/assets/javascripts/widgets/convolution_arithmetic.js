// The windows of a square convolution: which cells each output reads, and what the floor cuts off.
import { build, html, number, slider, svg, t } from "./base.js";

export function outputSize(n, kernel, stride, padding, dilation) {
  return Math.floor((n + 2 * padding - dilation * (kernel - 1) - 1) / stride) + 1;
}

// What output i reads along one axis; cell 0 is the first of the input.
export function reads(i, kernel, stride, padding, dilation) {
  return Array.from({ length: kernel }, (_, u) => i * stride + u * dilation - padding);
}

// The unit of the drawing is the cell.
function cell(x, y, attributes = {}) {
  return svg("rect", { x, y, width: 1, height: 1, ...attributes });
}

function cross(x, y) {
  return svg("path", { d: `M${x + 0.25} ${y + 0.25}l.5 .5m0-.5l-.5 .5` });
}

export default function (host) {
  const n = slider(t("Input n", "输入 n"), 3, 10, 6);
  const k = slider(t("Kernel k", "核 k"), 1, 5, 3);
  const s = slider(t("Stride s", "步幅 s"), 1, 4, 2);
  const p = slider(t("Padding p", "填充 p"), 0, 3, 1);
  const d = slider(t("Dilation d", "膨胀 d"), 1, 3, 1);
  const row = slider(t("Output row", "输出的行"), 0, 2, 0);
  const column = slider(t("Output column", "输出的列"), 0, 2, 1);

  const boards = ["input", "output"].map((name) => {
    const board = svg("svg", { role: "img" });
    const caption = html("span");
    return { board, caption, node: html("div", { className: name }, caption, board) };
  });

  const stage = html("div", { className: "boards" }, ...boards.map(({ node }) => node));

  function draw({ board, caption }, first, size, inside, text, cells) {
    board.style.setProperty("--cells", size);
    board.setAttribute("viewBox", `${first} ${first} ${size} ${size}`);
    board.ariaLabel = caption.textContent = text;
    const ground = [];
    for (let y = first; y < first + size; y++) {
      for (let x = first; x < first + size; x++) {
        const padded = x < 0 || y < 0 || x >= inside || y >= inside;
        ground.push(cell(x, y, { "data-at": `${y},${x}`, ...(padded ? { class: "padding" } : {}) }));
      }
    }
    board.replaceChildren(...ground, ...cells);
  }

  function update() {
    const [size, kernel, stride, padding, dilation] = [n, k, s, p, d].map(({ value }) => value);
    const settings = [kernel, stride, padding, dilation];
    const padded = size + 2 * padding;
    const span = dilation * (kernel - 1) + 1;
    const count = outputSize(size, ...settings);
    row.max = column.max = count - 1;
    stage.style.setProperty("--most", Math.max(padded, count));
    stage.style.setProperty("--all", padded + Math.max(count, 4));
    const [input, output] = boards;
    const square = (side) => `${side}\u00a0×\u00a0${side}`;
    const named = `${t("Input", "输入")} ${square(size)}`;
    const all = padding ? t(", padded ", "，填充后 ") + square(padded) : "";
    const marks = [];
    const seen = new Set();
    for (let i = 0; i < count; i++) for (const at of reads(i, ...settings)) seen.add(at);
    for (let y = -padding; y < size + padding; y++) {
      for (let x = -padding; x < size + padding; x++) {
        if (!seen.has(x) || !seen.has(y)) marks.push(cross(x, y));
      }
    }
    const formula =
      `n′ = ⌊(${size} + 2 · ${padding} − ${dilation} · (${kernel} − 1) − 1) / ${stride}⌋ + 1`;
    if (count < 1) {
      draw(input, -padding, padded, size, named + all, []);
      draw(output, 0, 0, 0, t("No output", "没有输出"), []);
      return [
        t(
          `Impossible: a window of ${span} does not fit into ${size} + 2 · ${padding} cells.`,
          `不可行：跨 ${span} 格的窗口放不进 ${size} + 2 · ${padding} 格。`,
        ),
      ];
    }
    const [i, j] = [row.value, column.value];
    const [rows, columns] = [i, j].map((at) => reads(at, ...settings));
    for (const y of rows) {
      for (const x of columns) marks.push(cell(x, y, { class: "chosen", "data-read": `${y},${x}` }));
    }
    const [x, y] = [columns[0], rows[0]];
    marks.push(svg("rect", { x, y, width: span, height: span, class: "frame" }));
    draw(input, -padding, padded, size, named + all, marks);
    const made = `${t("Output", "输出")} ${square(count)}`;
    draw(output, 0, count, count, made, [
      cell(j, i, { class: "chosen" }),
      cell(j, i, { class: "frame" }),
    ]);

    const room = padded - span;
    const rest = room % stride;
    const lost = Math.max(rest - padding, 0);
    const real = (at) => at >= 0 && at < size;
    const blank = kernel ** 2 - rows.filter(real).length * columns.filter(real).length;
    const list = (at) => at.map(number).join(t(", ", "、"));
    return [
      `${formula} = ⌊${room} / ${stride}⌋ + 1 = ${count}`,
      t(
        `Output (${i}, ${j}) reads rows ${list(rows)} and columns ${list(columns)}; ` +
          `${blank} of its ${kernel ** 2} cells are padding.`,
        `输出（${i}, ${j}）读第 ${list(rows)} 行、第 ${list(columns)} 列；` +
          `${kernel ** 2} 格中有 ${blank} 格是填充。`,
      ),
      rest
        ? t(
            `Lost at the end, remainder r = ${rest}: ${rest} of ${padded} rows and columns, ` +
              `${lost} of them input.`,
            `末端丢掉余数 r = ${rest}：${padded} 行（列）中的 ${rest} 行（列），其中 ${lost} 行（列）是输入。`,
          )
        : t("Nothing is lost at the end: r = 0.", "末端没有丢掉什么：r = 0。"),
    ];
  }

  const title = t("Try it: windows of a convolution", "试一试：卷积的窗口");
  const refresh = build(host, title, [n, k, s, p, d, row, column], [stage], update);

  // A mouse or a finger chooses an output cell directly.
  for (const kind of ["pointerover", "click"]) {
    boards[1].board.addEventListener(kind, ({ target }) => {
      if (!target.dataset.at) return;
      const [i, j] = target.dataset.at.split(",");
      if (i === row.input.value && j === column.input.value) return;
      [row.input.value, column.input.value] = [i, j];
      refresh();
    });
  }
}
