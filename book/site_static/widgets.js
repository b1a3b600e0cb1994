// Runs after require.js and before the widget player. It tells the player where on this site its own files lie, and speaks to
// MathJax 3 on its behalf: the player still asks for MathJax 2's queue when it sets the text of a label.
const player = new URL("vendor/widgets", document.currentScript.src).href;
require.config({ paths: { "@jupyter-widgets": player, "@jupyter-widgets/html-manager/dist": player } });
window.addEventListener("load", () => {
  if (!window.MathJax || window.MathJax.Hub) return;
  const typeset = (element) => window.MathJax.startup.promise.then(() => window.MathJax.typesetPromise([element]));
  window.MathJax.Hub = { Queue: ([, , element]) => typeset(element) };
});
