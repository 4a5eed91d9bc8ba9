// A stack of layers along one axis: what one output reads in every map down to the input.
import { build, html, number, slider, svg, t } from "./base.js";

const NAMES = ["kernel", "stride", "padding", "dilation"];
const LIMITS = [[1, 7], [1, 3], [0, 4], [1, 4]];
const LAYERS = [[3, 1, 1, 1], [3, 2, 1, 1], [3, 1, 2, 2], [2, 2, 0, 1], [3, 1, 1, 1]];

const extent = ({ kernel, dilation }) => dilation * (kernel - 1) + 1;

// Forwards: the field of the input itself, then that of the output of each layer.
export function receptiveFields(layers) {
  const fields = [{ size: 1, jump: 1, start: 0 }];
  for (const layer of layers) {
    const { size, jump, start } = fields.at(-1);
    fields.push({
      size: size + (extent(layer) - 1) * jump,
      jump: jump * layer.stride,
      start: start - layer.padding * jump,
    });
  }
  return fields;
}

// Backwards: first and last position in every map, from the input up.
export function traceBack(layers, index) {
  const spans = [[index, index]];
  for (const layer of [...layers].reverse()) {
    const [first, last] = spans[0];
    const low = first * layer.stride - layer.padding;
    spans.unshift([low, last * layer.stride - layer.padding + extent(layer) - 1]);
  }
  return spans;
}

// The length of every map, as far as the layers fit.
export function mapLengths(layers, length) {
  const lengths = [length];
  for (const layer of layers) {
    const room = lengths.at(-1) + 2 * layer.padding - extent(layer);
    if (room < 0) break;
    lengths.push(Math.floor(room / layer.stride) + 1);
  }
  return lengths;
}

// Exactly the positions that count, in every map: without padding and holes.
export function positions(layers, lengths, index) {
  const maps = [[index]];
  [...layers].reverse().forEach((layer, above) => {
    const n = lengths[layers.length - 1 - above];
    const read = new Set();
    for (const i of maps[0]) {
      for (let u = 0; u < layer.kernel; u++) {
        const at = i * layer.stride + u * layer.dilation - layer.padding;
        if (at >= 0 && at < n) read.add(at);
      }
    }
    maps.unshift([...read].sort((a, b) => a - b));
  });
  return maps;
}

// 0, 1, 2, 5 as 0–2, 5.
function runs(found) {
  const parts = [];
  for (const at of found) {
    const last = parts.at(-1);
    if (last && last[1] === at - 1) last[1] = at;
    else parts.push([at, at]);
  }
  return parts.map(([a, b]) => (a === b ? `${a}` : `${a}–${b}`)).join(t(", ", "、"));
}

export default function (host) {
  const length = slider(t("Input length", "输入长度"), 5, 32, 15);
  const count = slider(t("Layers", "层数"), 1, LAYERS.length, 3);
  const output = slider(t("Output position", "输出位置"), 0, 7, 1);

  const words = [t("Kernel", "核"), t("Stride", "步幅"), t("Padding", "填充"), t("Dilation", "空洞率")];
  const named = (l) => (l ? t("Layer ", "第 ") + l + t("", " 层") : t("Input", "输入"));
  const choices = LAYERS.map((values, l) =>
    values.map((value, at) => {
      const ariaLabel = named(l + 1) + t(", ", "，") + words[at].toLowerCase();
      const [low, high] = LIMITS[at];
      const options = Array.from({ length: high - low + 1 }, (_, i) => {
        const defaultSelected = low + i === value;
        return html("option", { defaultSelected }, `${low + i}`);
      });
      return html("select", { ariaLabel }, ...options);
    }),
  );
  const head = (names) =>
    html("tr", {}, html("td"), ...names.map((name) => html("th", { scope: "col" }, name)));
  const row = (l, cells) => html(
    "tr",
    {},
    html("th", { scope: "row" }, named(l)),
    ...cells.map((cell) => html("td", {}, cell)),
  );
  const settings = choices.map((selects, l) => row(l + 1, selects));
  const stack = html("table", { className: "layers" }, head(words), ...settings);
  const facts = html("table", { className: "facts" });
  const drawing = svg("svg", { role: "img", class: "stack" });
  drawing.ariaLabel = t("The maps, what the output reads marked", "各层的图，标出该输出读到的位置");

  function draw(layers, fields, lengths, index) {
    const width = drawing.clientWidth || 600;
    const [left, tall, pitch] = [56, 22, 46];
    const n = lengths[0];
    const maps = index === undefined ? lengths.map(() => []) : positions(layers, lengths, index);
    const spans = index === undefined ? [] : traceBack(layers, index);
    // Where position i of a map stands above the input: in the middle of its field.
    const middle = (l, i) => fields[l].start + i * fields[l].jump + (fields[l].size - 1) / 2;
    const ends = spans.flatMap(([first, last], l) => [middle(l, first), middle(l, last)]);
    const low = Math.max(Math.min(0, ...ends), -n / 2) - 0.6;
    const high = Math.min(Math.max(n - 1, ...ends), 1.5 * n) + 0.6;
    const unit = (width - left) / (high - low);
    const x = (place) => left + (place - low) * unit;
    const y = (l) => (lengths.length - 1 - l) * pitch + 1;
    drawing.setAttribute("viewBox", `0 0 ${width} ${y(0) + tall + 1}`);
    const shapes = [];
    spans.slice(1).forEach(([first, last], l) => {
      const [a, b] = spans[l].map((i) => middle(l, i));
      const [c, d] = [middle(l + 1, first), middle(l + 1, last)];
      const [under, over] = [y(l), y(l + 1) + tall];
      const points = [[x(a - 0.42), under], [x(b + 0.42), under], [x(d + 0.42), over], [x(c - 0.42), over]];
      shapes.push(svg("polygon", { points: points.join(" ") }));
    });
    lengths.forEach((size, l) => {
      const read = new Set(maps[l]);
      const [first, last] = spans[l] ?? [0, -1];
      for (let i = Math.min(0, first); i < Math.max(size, last + 1); i++) {
        const at = middle(l, i);
        if (at < low || at > high) continue;
        const inside = i >= 0 && i < size;
        if (!inside && (i < first || i > last)) continue;
        const place = { x: x(at - 0.42), y: y(l), width: 0.84 * unit, height: tall };
        if (!inside) {
          shapes.push(svg("rect", { ...place, class: "padding" }));
          continue;
        }
        shapes.push(svg("rect", { ...place, "data-at": `${l},${i}`, class: read.has(i) ? "chosen" : "" }));
        if (unit > 15) shapes.push(svg("text", { x: x(at), y: y(l) + 15, class: "number" }, `${i}`));
      }
      // On a ground of its own, for the cone may reach here.
      shapes.push(svg("rect", { x: 0, y: y(l), width: left - 4, height: tall, class: "ground" }));
      shapes.push(svg("text", { x: 0, y: y(l) + 15 }, named(l)));
    });
    drawing.replaceChildren(...shapes);
  }

  function update() {
    settings.forEach((line, l) => (line.hidden = l >= count.value));
    const layers = choices.slice(0, count.value).map((selects) =>
      Object.fromEntries(selects.map((select, at) => [NAMES[at], Number(select.value)])),
    );
    const fields = receptiveFields(layers);
    const lengths = mapLengths(layers, length.value);
    const fits = lengths.length > layers.length;
    output.max = fits ? lengths.at(-1) - 1 : -1;
    facts.replaceChildren(
      head([t("Length", "长度"), t("Size", "大小"), t("Jump", "步距"), t("Start", "起点")]),
      ...fields.map(({ size, jump, start }, l) =>
        row(l, [lengths[l] ?? "–", size, jump, start].map(number)),
      ),
    );
    if (!fits) {
      draw(layers, fields, lengths);
      const l = lengths.length;
      const layer = layers[l - 1];
      return [
        t(
          `Impossible: layer ${l} spans ${extent(layer)}, its input has ${lengths[l - 1]} positions ` +
            `and ${layer.padding} of padding on each side.`,
          `不可行：第 ${l} 层跨 ${extent(layer)} 个位置，而它的输入只有 ${lengths[l - 1]} 个位置，` +
            `两侧各填充 ${layer.padding} 个。`,
        ),
      ];
    }
    const index = output.value;
    draw(layers, fields, lengths, index);
    const [first, last] = traceBack(layers, index)[0];
    const [read] = positions(layers, lengths, index);
    const { size } = fields.at(-1);
    return [
      t(
        `Output ${index}: its field reaches from ${number(first)} to ${number(last)}, ${size} positions.`,
        `输出 ${index}：感受野从 ${number(first)} 到 ${number(last)}，共 ${size} 个位置。`,
      ),
      read.length
        ? t(
            `It reads ${read.length} of ${length.value} pixels: ${runs(read)}.`,
            `实际读到 ${length.value} 个像素中的 ${read.length} 个：${runs(read)}。`,
          )
        : t("It reads no pixel: padding alone.", "一个像素也没有读到，全是填充。"),
    ];
  }

  const title = t("Try it: the field of a stack", "试一试：多层的感受野");
  const stage = [html("div", { className: "tables" }, stack, facts), drawing];
  const refresh = build(host, title, [length, count, output], stage, update);
  new ResizeObserver(refresh).observe(drawing);
  for (const kind of ["pointerover", "click"]) {
    drawing.addEventListener(kind, ({ target }) => {
      const [l, i] = target.dataset.at?.split(",") ?? [];
      if (l !== String(count.value) || i === output.input.value || output.input.disabled) return;
      output.input.value = i;
      refresh();
    });
  }
}
