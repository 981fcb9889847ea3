// Conversations, kept in this browser. Each has {id, title, changed, turns}.

const KEPT = "gritlm.conversations";
const CURRENT = "gritlm.conversation"; // of this browser tab
const MOST = 100;
const TITLE = 60; // characters

const read = () => {
  try {
    const found = JSON.parse(localStorage.getItem(KEPT));
    return Array.isArray(found) ? found : [];
  } catch {
    return [];
  }
};

// Writes the newest conversations; the oldest ones give way if the browser has no more room. One that
// does not fit alone is not kept, and the others stay.
const write = (all) => {
  let kept = all.toSorted((a, b) => b.changed - a.changed).slice(0, MOST);
  for (;;) {
    try {
      localStorage.setItem(KEPT, JSON.stringify(kept));
      return;
    } catch {
      if (kept.length <= 1) return; // too large alone, or storage is switched off
      kept = kept.slice(0, -1);
    }
  }
};

export const conversations = () => read().toSorted((a, b) => b.changed - a.changed);

const titleFor = (turns) => {
  const text = turns[0].question.replace(/\s+/g, " ").trim();
  return text.length > TITLE ? `${text.slice(0, TITLE - 1).trimEnd()}…` : text;
};

const identity = () => `${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 8)}`;

// The conversation of this browser tab; one without turns is not kept yet.
export const current = () => {
  const id = sessionStorage.getItem(CURRENT);
  return read().find((each) => each.id === id) ?? { id: identity(), title: "", changed: 0, turns: [] };
};

export const open = (id) => {
  if (id === null) sessionStorage.removeItem(CURRENT);
  else sessionStorage.setItem(CURRENT, id);
};

// Keeps a conversation after its turns have changed. Turns that failed are not kept.
export const keep = (conversation) => {
  const turns = conversation.turns.filter(({ error }) => !error);
  const others = read().filter((each) => each.id !== conversation.id);
  if (!turns.length) return write(others);
  const kept = read().find((each) => each.id === conversation.id);
  conversation.title = kept?.title || conversation.title || titleFor(turns);
  conversation.changed = Date.now();
  open(conversation.id);
  return write([...others, { ...conversation, turns }]);
};

export const rename = (id, title) =>
  write(read().map((each) => (each.id === id ? { ...each, title } : each)));

export const removeAll = () => {
  open(null);
  write([]);
};

export const remove = (id) => write(read().filter((each) => each.id !== id));

// Puts a conversation back that was removed.
export const restore = (conversation) => write([...read().filter((each) => each.id !== conversation.id), conversation]);
