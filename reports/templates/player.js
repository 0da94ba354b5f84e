// ---------------------------------------------------------------- videos of a clip, played in step

// One video holds all views side by side; each is drawn from it, so that no view can be at another frame.
const FPS = 25;
const VIEWS = { whole: "Whole crop", mouth: "Mouth", difference: "Mouth, difference from the ground truth \u00d7 4" };

function makePlayer(record, shot) {
  const { side, columns: across, frames, mouth } = record;
  const video = el("video", { class: "unseen", preload: "auto", playsinline: "", loop: "", "aria-hidden": "true", tabindex: "-1" });
  const panels = record.views.map((view, place) => panelOf(view, place));
  const truth = panels.find(({ view }) => view.view === "truth");
  const slider = el("input", { type: "range", min: "0", max: String(frames - 1), value: "0", "aria-label": "Frame" });
  const where = el("output", { class: "where" });
  const play = el("button", { type: "button", class: "main" }, "Play");
  const choose = (label, options) => el("select", { "aria-label": label }, Object.entries(options).map(([value, text]) => option(value, text)));
  const look = choose("What is shown", truth ? VIEWS : { whole: VIEWS.whole, mouth: VIEWS.mouth });
  const speed = choose("Speed", { 1: "1 \u00d7", 0.5: "1/2 \u00d7", 0.25: "1/4 \u00d7" });
  const button = (text, label, act) => {
    const node = el("button", { type: "button", "aria-label": label }, text);
    node.addEventListener("click", act);
    return node;
  };
  const cursors = [];
  let frame = 0, wanted = null, alive = true;

  function panelOf(view, place) {
    const canvas = el("canvas", { width: String(side), height: String(side), role: "img" });
    const name = view.view === "source" ? "source, mouth erased" : view.model;
    canvas.setAttribute("aria-label", name);
    return { view, canvas, left: side * (place % across), top: side * Math.floor(place / across),
      node: el("figure", { class: view.view === "truth" ? "is-truth" : null }, canvas, el("figcaption", {}, el("b", {}, name))) };
  }

  function paint() {
    const [x, y, width, height] = look.value === "whole" ? [0, 0, side, side] : [mouth[0], mouth[1], mouth[2], mouth[2]];
    for (const panel of panels) {
      const pen = panel.canvas.getContext("2d");
      const put = (from) => pen.drawImage(video, from.left + x, from.top + y, width, height, 0, 0, side, side);
      pen.globalCompositeOperation = "source-over";
      put(panel);
      if (look.value !== "difference" || panel.view.view !== "model") continue;
      pen.globalCompositeOperation = "difference";
      put(truth);
      pen.globalCompositeOperation = "lighter";
      for (let doubling = 0; doubling < 2; doubling++) pen.drawImage(panel.canvas, 0, 0);
    }
  }

  function show(number) {
    frame = Math.max(0, Math.min(frames - 1, number));
    paint();
    const text = `frame ${frame + 1} of ${frames}, ${(frame / FPS).toFixed(2)} s`;
    slider.value = String(frame);
    slider.setAttribute("aria-valuetext", text);
    where.textContent = text;
    for (const cursor of cursors) cursor.style.left = `${(frame + 0.5) / frames * 100}%`;
  }

  // The middle of a frame's time: no rounding can make it the one before or after.
  function seek(number) {
    video.pause();
    wanted = Math.max(0, Math.min(frames - 1, number));
    if (!video.seeking) video.currentTime = (wanted + 0.5) / FPS;
  }
  const step = (by) => seek((wanted ?? frame) + by);
  // playing is refused where a pause, another clip or the browser comes first: the button shows what is
  const toggle = () => {
    if (!video.paused) video.pause();
    else video.play().catch((error) => { if (error.name !== "AbortError") where.textContent = `This browser does not play: ${error.message}`; });
  };

  video.addEventListener("seeked", () => {
    const at = Math.floor(video.currentTime * FPS + 1e-6);
    show(at);
    if (wanted !== null && wanted !== at && video.paused) video.currentTime = (wanted + 0.5) / FPS;
    else wanted = null;
  });
  video.addEventListener("loadeddata", () => { video.currentTime = 0.5 / FPS; });
  video.addEventListener("error", () => { if (alive) where.textContent = "The video cannot be played: its file is not beside this page, or this browser plays no H.264."; });
  for (const name of ["play", "pause"]) video.addEventListener(name, () => { play.textContent = video.paused ? "Play" : "Pause"; });
  const draws = "requestVideoFrameCallback" in video;
  function tick(_, about) {
    if (!alive) return;
    if (!video.paused && !video.seeking) show(Math.round((about?.mediaTime ?? video.currentTime) * FPS));
    if (draws) video.requestVideoFrameCallback(tick);
    else requestAnimationFrame(() => tick());
  }
  tick();

  play.addEventListener("click", toggle);
  slider.addEventListener("input", () => seek(Number(slider.value)));
  look.addEventListener("change", paint);
  speed.addEventListener("change", () => { video.playbackRate = Number(speed.value); });
  const sound = button("Sound off", "Turn the sound off", () => {
    video.muted = !video.muted;
    sound.textContent = video.muted ? "Sound on" : "Sound off";
    sound.setAttribute("aria-label", `Turn the sound ${video.muted ? "on" : "off"}`);
  });

  function track(title, content) {
    const cursor = el("div", { class: "cursor" }), box = el("div", { class: "track" }, content, cursor);
    cursors.push(cursor);
    box.addEventListener("click", (event) => {
      const at = box.getBoundingClientRect();
      seek(Math.floor((event.clientX - at.left) / at.width * frames));
    });
    return [el("h4", {}, title), box];
  }
  const failed = data.models.filter((model, place) => errors.has(place * count + shot))
    .map((model) => el("figure", { class: "gone" }, el("div", {}, "failed: no video"), el("figcaption", {}, el("b", {}, model.name))));
  const strip = el("img", { src: record.mel, alt: "Mel spectrogram of the speech, low bands at the bottom", class: "mel" });
  const node = el("section", { class: "player", "aria-label": "Videos" }, video,
    el("div", { class: "views" }, panels.map((panel) => panel.node), failed),
    el("div", { class: "controls" }, play, button("\u2039", "One frame back", () => step(-1)), slider, button("\u203a", "One frame on", () => step(1)), where),
    el("div", { class: "controls" }, look, speed, sound,
      el("span", { class: "muted small keys" }, "Keys: \u2190 \u2192 frame, Home, End, space or k play, n p next and former clip, Esc close.")),
    el("p", { class: "muted small" }, `${record.speaker ? `Speech of ${record.speaker}. ` : ""}Compressed for this page: scores were taken of the `
      + "lossless pictures, and small differences here may be the codec's."),
    track("Speech: mel spectrogram", strip), Object.entries(record.curves).flatMap(([kind, packed]) => framesOf(kind, packed, frames, track)));
  video.src = record.video;
  return { node, step, seek, toggle, stop: () => { alive = false; video.pause(); video.removeAttribute("src"); video.load(); } };
}

// A number a frame: a line a model on one scale, the ground truth dashed behind.
function framesOf(kind, packed, frames, track) {
  const read = data.models.filter((model) => Object.hasOwn(packed, model.name)).map((model) => ({ model, values: unpackCurve(packed[model.name]) }));
  const width = 1000, height = 46;
  const y = scale(read.flatMap(({ values }) => values.filter((value) => value !== null)), height - 3, 3);
  const path = (values) => values.map((value, at) => (value === null ? ""
    : `${at && values[at - 1] !== null ? "L" : "M"}${Math.round((at + 0.5) / frames * width)} ${y(value)}`)).join("");
  const real = read.find(({ model }) => model.truth);
  const drawn = read.map(({ model, values }) => {
    const chart = draw("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", class: model.truth ? "is-truth" : "", role: "img",
      "aria-label": `${data.frameCurves[kind]}: ${model.name}` }, line("axis", 0, height, width, height),
      real && !model.truth ? draw("path", { class: "curve real", d: path(real.values) }) : null, draw("path", { class: "curve", d: path(values) }));
    return el("div", { class: "lane" }, el("span", {}, model.name), chart);
  });
  return track(data.frameCurves[kind], drawn);
}

window.addEventListener("hashchange", follow);
follow();
