// A producer for reliq queues; the format is in reliq/core/wire.md.
//
//   node producer.js put KEY BODY [meta=text ...]   puts one message on $RELIQ_URL, and prints its id
//   node producer.js hex ID BODY [meta=text ...]    prints an envelope, all in hex, for the test vectors
//
// Exit status of put: 0 it is in, 1 it was refused, 3 unknown (it may be in: repeat the very same bytes).
import { createHash, randomBytes } from "node:crypto";
import { createClient, ErrorReply } from "redis";

/** A UUID of version 7: six bytes of Unix ms, the others by chance. */
function newId() {
  const id = randomBytes(16);
  id.writeUIntBE(Date.now(), 0, 6);
  id[6] = 0x70 | (id[6] & 0x0f);
  id[8] = 0x80 | (id[8] & 0x3f);
  return id;
}

/** A msgpack map: at most 15 pairs, of texts of at most 255 bytes. */
function packMeta(pairs) {
  const parts = [Buffer.of(0x80 | pairs.length)];
  for (const pair of pairs) {
    const [, key, value] = pair.match(/^([^=]*)=(.*)$/s);
    for (const text of [Buffer.from(key), Buffer.from(value)]) {
      parts.push(text.length < 32 ? Buffer.of(0xa0 | text.length) : Buffer.of(0xd9, text.length), text);
    }
  }
  return Buffer.concat(parts);
}

function envelope(id, meta, body) {
  const rest = Buffer.concat([id, meta, body]);
  const head = Buffer.alloc(23); // all counters are 0
  head.write("c1726c7101", "hex");
  head.writeUInt32BE(23 + rest.length, 5);
  createHash("sha1").update(rest).digest().copy(head, 9, 0, 4);
  return Buffer.concat([head, rest]);
}

async function put(key, message) {
  // No reconnecting, and so no repeat: whether to repeat is ours to decide.
  const client = createClient({ url: process.env.RELIQ_URL, socket: { reconnectStrategy: false } });
  client.on("error", () => {}); // the call below fails, too
  try {
    await client.connect();
    await client.lPush(key, message);
    return 0;
  } catch (error) {
    console.error("producer:", error.message || error);
    return error instanceof ErrorReply ? 1 : 3;
  } finally {
    if (client.isOpen) await client.disconnect();
  }
}

const [verb, place, body, ...pairs] = process.argv.slice(2);
if (body === undefined) {
  console.error("usage: producer.js put KEY BODY [meta=text ...] | hex ID BODY [meta=text ...]");
  process.exitCode = 2;
} else if (verb === "hex") {
  const [id, bytes] = [Buffer.from(place, "hex"), Buffer.from(body, "hex")];
  console.log(envelope(id, packMeta(pairs), bytes).toString("hex"));
} else {
  const id = newId();
  process.exitCode = await put(place, envelope(id, packMeta(pairs), Buffer.from(body)));
  if (process.exitCode === 0) console.log(id.toString("hex"));
}
