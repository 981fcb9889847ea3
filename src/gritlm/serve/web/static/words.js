// Formatting of numbers, durations and sizes.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const number = (value) => whole.format(value);

export const duration = (ms) => {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${whole.format(ms)} ms`;
  return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
};

export const bytes = (value) => {
  if (value < 1000) return `${value} B`;
  if (value < 1e6) return `${(value / 1e3).toFixed(0)} kB`;
  return value < 1e9 ? `${(value / 1e6).toFixed(1)} MB` : `${(value / 1e9).toFixed(2)} GB`;
};

// A large number in short: 135 M, 7.2 B.
export const amount = (value) => {
  const [unit, sign] = [[1e9, " B"], [1e6, " M"], [1e3, " k"]].find(([least]) => value >= least) ?? [1, ""];
  const short = value / unit;
  return `${short < 10 && unit > 1 ? short.toFixed(1) : Math.round(short)}${sign}`;
};

// Seconds as hours and minutes, or days: 0:42:05, 3 d 4:05:09.
export const span = (seconds) => {
  const whole = Math.max(0, Math.floor(seconds));
  const padded = (value) => String(value).padStart(2, "0");
  const time = `${Math.floor(whole / 3600) % 24}:${padded(Math.floor(whole / 60) % 60)}:${padded(whole % 60)}`;
  return whole < 86_400 ? time : `${Math.floor(whole / 86_400)} d ${time}`;
};

// A time in a recording: 0:30, 1:02:05.
export const clock = (seconds) => {
  const [hours, minutes, rest] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60];
  const padded = (value) => String(value).padStart(2, "0");
  return hours ? `${hours}:${padded(minutes)}:${padded(rest)}` : `${minutes}:${padded(rest)}`;
};
