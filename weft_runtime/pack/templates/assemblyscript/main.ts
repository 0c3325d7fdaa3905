const names = process.argv.slice(1);
console.log("Hello, " + names.join(" and ") + "!");
