// Ranks the results of a search: pages first, then flags, then names of the API.
const asked = (new URLSearchParams(location.search).get("q") || "").trim().toLowerCase();
const words = asked.split(/\W+/).filter((word) => word.length > 3);

function adjusted([docname, title, anchor, , score, , kind]) {
  const name = title.toLowerCase();
  if (docname.startsWith("zh/") !== /[\u4e00-\u9fff]/.test(asked)) score -= 30;
  if (name.endsWith(`.${asked}`) && asked.startsWith("--")) score += 100; // a flag
  if (name.endsWith(`.--${asked}`)) score += 8;
  if (name.startsWith("python-train.py.")) score += 2; // before the same flag of other commands
  if (kind === "title" && !anchor) score += 20;
  if (kind === "object" && docname.startsWith("reference/")) score -= 6;
  if (kind === "text") score += words.filter((word) => name.includes(word)).length;
  if (kind !== "object" && /^(reference|project)\//.test(docname)) score -= 4;
  if (/^(start|optimizers)\//.test(docname)) score += 2;
  return score;
}

var Scorer = {
  score: adjusted,
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
