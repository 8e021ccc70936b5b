// Panels sent ahead of a click. They are parsed when the first is needed, and not again while their
// digest, the first 16 bytes, is the same.

export default function ({ data }) {
  const digest = new TextDecoder().decode(data.subarray(0, 16));
  if (digest === panel.digest) return;
  Object.assign(panel, { digest, bytes: data.subarray(16), panels: null });
}
