// Every kind of value, from TypeScript to Python and from Python to TypeScript.

import assert from "node:assert/strict";
import { ModalClient, RemoteError } from "modal";

const client = new ModalClient();
const shown = await client.functions.fromName("typescript-tests", "shown");
const made = await client.functions.fromName("typescript-tests", "made");
const echo = await client.functions.fromName("typescript-tests", "echo");

// What Python sees: its type, and its repr.
const TO_PYTHON: [unknown, string, string][] = [
  [null, "NoneType", "None"],
  [true, "bool", "True"],
  [1, "int", "1"],
  [-5, "int", "-5"],
  [1.5, "float", "1.5"],
  [-4_294_967_296, "int", "-4294967296"],
  [-4_294_967_297, "float", "-4294967297.0"],
  [4_294_967_295, "int", "4294967295"],
  [4_294_967_296, "float", "4294967296.0"],
  [123n, "int", "123"],
  [2n ** 63n, "int", "9223372036854775808"],
  [-(2n ** 70n), "int", "-1180591620717411303424"],
  [Number.NaN, "float", "nan"],
  [Number.POSITIVE_INFINITY, "float", "inf"],
  ["hé", "str", "'hé'"],
  ["", "str", "''"],
  [new Uint8Array([1, 255]), "bytes", String.raw`b'\x01\xff'`],
  [Buffer.from("ab"), "bytes", "b'ab'"],
  [[1, ["a"]], "list", "[1, ['a']]"],
  [{ a: { b: [null] } }, "dict", "{'a': {'b': [None]}}"],
  [new Map([[1, 2]]), "dict", "{1: 2}"],
  [new Set([1, 2]), "set", "{1, 2}"],
  [
    new Date(1_700_000_000_123),
    "datetime",
    "datetime.datetime(2023, 11, 14, 22, 13, 20, 123000, tzinfo=datetime.timezone.utc)",
  ],
];

// A Python expression, and what comes of it here.
const FROM_PYTHON: [string, unknown][] = [
  ["None", null],
  ["False", false],
  ["7", 7],
  ["1.0", 1],
  ["1.5", 1.5],
  ["math.nan", Number.NaN],
  ["2**32 - 1", 4_294_967_295],
  ["2**32", 4_294_967_296n],
  ["-2**32", -4_294_967_296],
  ["-2**32 - 1", -4_294_967_297n],
  ["2**53 - 1", 9_007_199_254_740_991n],
  ["2**63", 9_223_372_036_854_775_808n],
  ["-2**70", -1_180_591_620_717_411_303_424n],
  ["'hé'", "hé"],
  ["b'ab'", Buffer.from("ab")],
  ["bytearray(b'ab')", Buffer.from("ab")],
  ["[1, (2, 3)]", [1, [2, 3]]],
  ["{'a': {'b': None}}", { a: { b: null } }],
  ["{1: 2}", { 1: 2 }],
  ["{1, 2}", new Set([1, 2])],
  ["datetime.datetime(2024, 1, 2, 3, 4, 5, 678000, datetime.timezone.utc)", new Date("2024-01-02T03:04:05.678Z")],
  ["decimal.Decimal('1.5')", 1.5],
];

export async function checkToPython(): Promise<void> {
  for (const [value, type, repr] of TO_PYTHON) {
    assert.deepEqual(await shown.remote([value]), [type, repr], `${typeof value} ${String(value)}`);
  }
}

export async function checkFromPython(): Promise<void> {
  for (const [expression, expected] of FROM_PYTHON) {
    assert.deepEqual(await made.remote([expression]), expected, expression);
  }
}

export async function checkUndefinedIsNotNone(): Promise<void> {
  const [type] = (await shown.remote([undefined])) as [string, string];
  assert.match(type, /undefined/i);
}

export async function checkThereAndBack(): Promise<void> {
  const value = { text: "x", list: [1, -1.25, true], when: new Date(1_700_000_000_000), bytes: Buffer.from([0, 255]) };
  assert.deepEqual(await echo.remote([value], { named: value }), [[value], { named: value }]);
}

export async function checkWhatHasNoPlaceInCbor(): Promise<void> {
  for (const expression of ["object()", "datetime.datetime(2024, 1, 2)"]) {
    await assert.rejects(made.remote([expression]), (error: unknown) => {
      assert(error instanceof RemoteError);
      assert.match(error.message, /cbor|serializ|timezone/i);
      return true;
    });
  }
}
