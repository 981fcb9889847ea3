// Files chosen in the browser, as requests of the API.

import { t } from "./language.js";

export const ENDINGS = [
  ".txt", ".md", ".html", ".pdf", ".docx", ".pptx", ".xlsx", ".epub", ".csv", ".jsonl",
];
const LARGEST = 6_000_000; // bytes; in base64 this is below the server's default limit

const inBase64 = (file) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });

// Returns the body of a request that adds one file. Throws an error with the reason if it cannot.
export const asRequest = async (file) => {
  if (file.size === 0) throw new Error(t("file.empty"));
  if (file.size > LARGEST)
    throw new Error(t("file.large", { size: file.size, most: LARGEST }));
  let data;
  try {
    data = await inBase64(file);
  } catch {
    throw new Error(t("file.unreadable"));
  }
  return { files: [{ name: file.name, data }] };
};
