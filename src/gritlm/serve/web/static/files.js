// Files as a browser hands them over -> files as the API takes them.

import { bytes } from "./words.js";

export const ENDINGS = [".txt", ".md", ".html", ".pdf", ".jsonl"];
const LARGEST = 6_000_000; // in base64 it stays below what servers take by default

const inBase64 = (file) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });

// The body of a request that adds one file. Throws an error that says why there is none.
export const asRequest = async (file) => {
  if (file.size === 0) throw new Error("it is empty");
  if (file.size > LARGEST)
    throw new Error(`it has ${bytes(file.size)}, the page takes ${bytes(LARGEST)}; add it with gritlm index`);
  let data;
  try {
    data = await inBase64(file);
  } catch {
    throw new Error("it cannot be read");
  }
  return { files: [{ name: file.name, data }] };
};
