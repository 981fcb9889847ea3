// Passages that are images and sounds: their page or time, and the file itself.

import { fileUrl } from "./api.js";
import { h } from "./dom.js";
import { t } from "./language.js";
import { store } from "./server.js";
import { clock } from "./words.js";

// The page or the time of a passage in its document; empty for an image that is no page.
export const labelOf = ({ page, start, end }) => {
  if (page !== null) return t("place.page", { page });
  return start === null ? "" : t("place.time", { start: clock(start), end: clock(end) });
};

const addressOf = (source) => {
  const named = store() === null ? "" : `?store=${encodeURIComponent(store())}`;
  return `v1/rag/media/${encodeURIComponent(source.id)}${named}`;
};

const soundUrls = new Map(); // the address of the sound of each figure, which may be played again

const revokeReplaced = () => {
  for (const [figure, url] of soundUrls) {
    if (figure.isConnected) continue;
    URL.revokeObjectURL(url);
    soundUrls.delete(figure);
  }
};

const element = (source, url) => {
  const name = [source.title || source.document_id, labelOf(source.media)].filter(Boolean).join(t("place.join"));
  const revoke = () => URL.revokeObjectURL(url);
  return source.media.kind === "image"
    ? h("img", { src: url, alt: name, onload: revoke, onerror: revoke })
    : h("audio", { src: url, controls: true, "aria-label": name });
};

const load = async (figure, source) => {
  try {
    const url = await fileUrl(addressOf(source));
    figure.replaceChildren(element(source, url));
    if (source.media.kind !== "image") soundUrls.set(figure, url);
    revokeReplaced();
  } catch (error) {
    figure.replaceChildren(h("p", { class: "place" }, error.message));
  }
};

// Returns the image or the sound of a passage, which is fetched when it first comes into view.
export const mediaOf = (source) => {
  const figure = h("figure", { class: "media" });
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    load(figure, source);
  });
  observer.observe(figure);
  return figure;
};
