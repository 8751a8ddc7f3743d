"use strict";
// Gathers what was filled in as names.yaml. JSON's strings are YAML's, but for these letters.
const quoted = (text) =>
  JSON.stringify(text).replace(
    /[\u007f-\u009f\u2028\u2029\ufeff\ufffe\uffff]/g,
    (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
const line = (form) => {
  const { name, colour, merge_into, ignore, split } = form.elements;
  const called = name.value.trim() || `cluster ${form.dataset.cluster}`;
  return (
    `${form.dataset.cluster}: {name: ${quoted(called)}, colour: ${quoted(colour.value)}, ` +
    `merge_into: ${merge_into.value || "null"}, ignore: ${ignore.checked}${split.checked ? ", split: 2" : ""}}\n`
  );
};
const forms = [...document.querySelectorAll("form[data-cluster]")];
for (const form of forms) form.addEventListener("submit", (event) => event.preventDefault());
document.getElementById("download").addEventListener("click", () => {
  const file = new Blob([forms.map(line).join("")], { type: "application/yaml" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = "names.yaml";
  link.click();
  URL.revokeObjectURL(link.href);
});
