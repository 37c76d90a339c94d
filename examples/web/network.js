// A network in an ONNX file: its facts, its noise field, and a picture computed whole or in overlapping tiles.
// The noise and the tiles are those of stylescore_apply, so a seed gives the same picture as on the command line.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs";

const KEY = "stylescore.generator";
const VERSION = 1;
const CONTEXT_IF_UNKNOWN = 128;
const BLEND = 32;
const FAINTEST = 1e-3;
const OVERHEAD = 2.5;
const MEMORY_LIMIT = 512 * 2 ** 20;

ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(8, navigator.hardwareConcurrency || 1) : 1;
ort.env.logLevel = "error";

/** Loads a network from the bytes of its file, on the GPU if there is one, else in WebAssembly. */
export async function loadNetwork(bytes, { provider } = {}) {
  const facts = readFacts(bytes);
  const order = provider ? [provider] : (await hasGpu()) ? ["webgpu", "wasm"] : ["wasm"];
  let reason;
  for (const name of order) {
    try {
      const session = await ort.InferenceSession.create(bytes, { executionProviders: [name] });
      return { facts, session, provider: name };
    } catch (error) {
      reason = error;
    }
  }
  throw new Error(`This network cannot be loaded: ${reason.message}`);
}

async function hasGpu() {
  try {
    return Boolean(navigator.gpu && (await navigator.gpu.requestAdapter()));
  } catch {
    return false;
  }
}

/** Returns the facts in an ONNX file's metadata; onnxruntime-web does not show them. */
export function readFacts(bytes) {
  for (const entry of fields(bytes, 14)) {
    const [key] = fields(entry, 1).map(text);
    const [value] = fields(entry, 2).map(text);
    if (key === KEY) {
      const facts = JSON.parse(value);
      if (facts.version !== VERSION) throw new Error(`This network has version ${facts.version}, the page reads ${VERSION}.`);
      return facts;
    }
  }
  throw new Error("This is not a network that stylescore exported.");
}

const text = (bytes) => new TextDecoder().decode(bytes);

/** Returns the contents of a length-delimited field of a protocol buffer. */
function fields(bytes, wanted) {
  const found = [];
  let at = 0;
  const number = () => {
    let value = 0;
    for (let shift = 0; at < bytes.length; shift += 7) {
      const byte = bytes[at++];
      value += (byte & 127) * 2 ** shift;
      if (byte < 128) return value;
    }
    throw new Error("This file is damaged.");
  };
  while (at < bytes.length) {
    const tag = number();
    const kind = tag % 8;
    if (kind === 0) number();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const length = number();
      if (Math.floor(tag / 8) === wanted) found.push(bytes.subarray(at, at + length));
      at += length;
    } else throw new Error("This is not an ONNX file.");
  }
  return found;
}

/** Hashes a number of 32 bits: Chris Wellons' lowbias32. */
function hash32(x) {
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

const toUnit = (x) => (x + 0.5) / 2 ** 32;

/** Returns a window of a seed's noise field, [channels, rows, columns], as stylescore_apply.noise draws it. */
export function noiseField(seed, channels, [top, bottom], [left, right]) {
  const field = new Float32Array(channels * (bottom - top) * (right - left));
  const start = hash32((seed ^ 0x9e3779b9) >>> 0);
  let at = 0;
  for (let channel = 0; channel < channels; channel++) {
    const ofChannel = hash32((start + channel) >>> 0);
    for (let row = top; row < bottom; row++) {
      const ofRow = hash32((ofChannel + row) >>> 0);
      for (let column = left; column < right; column++) {
        const key = hash32((ofRow + column) >>> 0);
        const radius = Math.sqrt(-2 * Math.log(toUnit(hash32(key))));
        field[at++] = radius * Math.cos(2 * Math.PI * toUnit(hash32((key ^ 0x85ebca6b) >>> 0)));
      }
    }
  }
  return field;
}

/**
 * Stylizes an ImageData, as often and as strongly as the network's file states; `onTile(done, total)` is called after
 * each tile of each pass.
 */
export async function stylize(network, photo, seed, onTile = () => {}) {
  const { passes = 1, strength = 1 } = network.facts;
  let picture = photo;
  for (let pass = 0; pass < passes; pass++) picture = await applyOnce(network, picture, seed, onTile);
  return strength === 1 ? picture : mix(photo, picture, strength);
}

/** Returns photo + strength * (picture - photo). */
function mix(photo, picture, strength) {
  const mixed = new ImageData(photo.width, photo.height);
  for (let at = 0; at < photo.data.length; at++) {
    mixed.data[at] = Math.round(photo.data[at] + strength * (picture.data[at] - photo.data[at]));
  }
  return mixed;
}

async function applyOnce(network, photo, seed, onTile) {
  const { facts } = network;
  const split = chooseSplit(facts, photo.width, photo.height);
  const [rows, columns] = [split(photo.height), split(photo.width)];
  const blended = new Float32Array(3 * photo.width * photo.height);
  let done = 0;
  for (const row of rows) {
    for (const column of columns) {
      addTile(blended, photo, await compute(network, photo, seed, row, column), row, column);
      onTile(++done, rows.length * columns.length);
    }
  }
  return toImage(blended, photo);
}

/** Returns what splits the axes of a picture, as stylescore_apply.stylizing does: one span if it is computed whole. */
export function chooseSplit(facts, width, height) {
  const { tiles: rule, multiple } = facts;
  const context = rule ? 0 : facts.context ?? CONTEXT_IF_UNKNOWN;
  const pixels = Math.floor(MEMORY_LIMIT / (OVERHEAD * facts.bytes_per_pixel));
  if (width * height <= Math.min(pixels, rule?.largest ?? Infinity)) return (length) => splitAxis(length, Infinity, 0, 1);
  const inCells = (length) => Math.floor(length / multiple) * multiple;
  const smallest = Math.ceil((2 * context + 2 * BLEND + 2 * multiple) / multiple) * multiple;
  const fitting = Math.max(smallest, inCells(Math.floor(Math.sqrt(pixels))));
  if (!rule) return (length) => splitAxis(length, fitting, context, multiple);
  const side = Math.min(inCells(rule.side), fitting);
  return (length) => splitEvenly(length, side, Math.min(rule.overlap, Math.floor(side / 4)), multiple);
}

/** Splits an axis into spans with weights that add up to 1, as stylescore_apply.tiles does. */
export function splitAxis(length, side, context, multiple) {
  if (length <= side) return [{ start: 0, stop: length, weight: new Float32Array(length).fill(1) }];
  const overlap = 2 * context + BLEND + multiple;
  const lastStart = () => Math.ceil((length - side) / multiple) * multiple;
  const count = Math.ceil(lastStart() / (side - overlap)) + 1;
  side = Math.min(side, Math.ceil((length + multiple + (count - 1) * overlap) / count / multiple) * multiple);
  const last = lastStart();
  const starts = Array.from({ length: count }, (_, index) => Math.round((last * index) / (count - 1) / multiple) * multiple);
  return makeSpans(length, side, starts, (inside) => limit((inside - context) / BLEND));
}

/** Splits an axis into evenly spaced spans that fade by raised cosines, as stylescore_apply.tiles does. */
export function splitEvenly(length, side, overlap, multiple) {
  if (length <= side) return splitAxis(length, side, 0, multiple);
  const last = Math.ceil(length / multiple) - Math.floor(side / multiple);
  const count = Math.ceil((last * multiple) / (side - overlap));
  const starts = Array.from({ length: count + 1 }, (_, index) => roundToEven((index * last) / count) * multiple);
  const rise = (inside) => Math.max(FAINTEST, 0.5 - 0.5 * Math.cos(Math.PI * limit(inside / overlap)));
  return makeSpans(length, side, starts, rise);
}

const limit = (value) => Math.min(1, Math.max(0, value));

/** Rounds as Python does: a half to the even neighbour. */
const roundToEven = (value) => (value % 1 === 0.5 ? 2 * Math.round(value / 2) : Math.round(value));

/** Returns spans that begin at `starts`; `rise` is their weight by the distance from an inner end. */
function makeSpans(length, side, starts, rise) {
  const total = new Float64Array(length);
  const spans = starts.map((start) => {
    const stop = Math.min(start + side, length);
    const weight = Float64Array.from({ length: stop - start }, (_, at) =>
      Math.min(1, start > 0 ? rise(at + 0.5) : 1, stop < length ? rise(stop - start - at - 0.5) : 1)
    );
    weight.forEach((value, at) => (total[start + at] += value));
    return { start, stop, weight };
  });
  for (const span of spans) span.weight = Float32Array.from(span.weight, (value, at) => value / total[span.start + at]);
  return spans;
}

/** Computes the network's picture of a part of a photo. */
async function compute({ facts, session }, photo, seed, row, column) {
  const [height, width] = [row.stop - row.start, column.stop - column.start];
  const values = new Float32Array(3 * height * width);
  for (let y = 0, at = 0; y < height; y++) {
    let from = 4 * ((row.start + y) * photo.width + column.start);
    for (let x = 0; x < width; x++, at++, from += 4) {
      for (let channel = 0; channel < 3; channel++) values[channel * height * width + at] = photo.data[from + channel] / 255;
    }
  }
  const feeds = { photo: new ort.Tensor("float32", values, [1, 3, height, width]) };
  if (facts.noise_channels) {
    const cells = ({ start, stop }) => [Math.floor(start / facts.noise_scale), Math.ceil(stop / facts.noise_scale)];
    const [rows, columns] = [cells(row), cells(column)];
    const noise = noiseField(seed, facts.noise_channels, rows, columns);
    feeds.noise = new ort.Tensor("float32", noise, [1, facts.noise_channels, rows[1] - rows[0], columns[1] - columns[0]]);
  }
  const { picture } = await session.run(feeds);
  return picture.getData ? await picture.getData() : picture.data;
}

function addTile(blended, photo, values, row, column) {
  const [height, width] = [row.stop - row.start, column.stop - column.start];
  for (let channel = 0, at = 0; channel < 3; channel++) {
    for (let y = 0; y < height; y++) {
      let to = (channel * photo.height + row.start + y) * photo.width + column.start;
      for (let x = 0; x < width; x++, at++, to++) blended[to] += values[at] * row.weight[y] * column.weight[x];
    }
  }
}

function toImage(blended, photo) {
  const image = new ImageData(photo.width, photo.height);
  const size = photo.width * photo.height;
  for (let at = 0; at < size; at++) {
    for (let channel = 0; channel < 3; channel++) {
      image.data[4 * at + channel] = Math.round(255 * Math.min(1, Math.max(0, blended[channel * size + at])));
    }
    image.data[4 * at + 3] = photo.data[4 * at + 3];
  }
  return image;
}
