// A producer for reliq queues; the format is in reliq/core/wire.md. `put KEY BODY [meta=text ...]` puts one message on
// $RELIQ_URL and prints its id; `hex ID BODY [meta=text ...]` prints an envelope, all in hex, for the test vectors.
// Exit status of put: 0 it is in, 1 it was refused, 3 unknown (it may be in: repeat the very same bytes).
package main

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// newID is a UUID of version 7: six bytes of Unix ms, the others by chance.
func newID() []byte {
	id := binary.BigEndian.AppendUint64(make([]byte, 0, 16), uint64(time.Now().UnixMilli())<<16)[:16]
	rand.Read(id[6:])
	id[6], id[8] = 0x70|id[6]&0x0f, 0x80|id[8]&0x3f
	return id
}

// packMeta is a msgpack map: at most 15 pairs, of texts of at most 255 bytes.
func packMeta(pairs []string) []byte {
	meta := []byte{0x80 | byte(len(pairs))}
	for _, pair := range pairs {
		for _, text := range strings.SplitN(pair, "=", 2) {
			head := []byte{0xd9, byte(len(text))}
			if len(text) < 32 {
				head = []byte{0xa0 | byte(len(text))}
			}
			meta = slices.Concat(meta, head, []byte(text))
		}
	}
	return meta
}

func envelope(id, meta, body []byte) []byte {
	rest := slices.Concat(id, meta, body)
	sum := sha1.Sum(rest)
	head := binary.BigEndian.AppendUint32([]byte("\xc1rlq\x01"), uint32(23+len(rest)))
	return slices.Concat(head, sum[:4], make([]byte, 10), rest) // all counters are 0
}

func check(err error, status int) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "producer:", err)
		os.Exit(status)
	}
}

func main() {
	if len(os.Args) < 4 {
		check(fmt.Errorf("usage: put KEY BODY [meta=text ...] | hex ID BODY [meta=text ...]"), 2)
	}
	verb, place, body, meta := os.Args[1], os.Args[2], []byte(os.Args[3]), packMeta(os.Args[4:])
	if verb == "hex" {
		given, _ := hex.DecodeString(place + string(body))
		fmt.Printf("%x\n", envelope(given[:16], meta, given[16:]))
		return
	}
	options, err := redis.ParseURL(os.Getenv("RELIQ_URL"))
	check(err, 2)
	options.MaxRetries = -1 // whether to repeat is ours to decide
	id := newID()
	err = redis.NewClient(options).LPush(context.Background(), place, envelope(id, meta, body)).Err()
	if _, refused := err.(redis.Error); refused {
		check(err, 1)
	}
	check(err, 3)
	fmt.Printf("%x\n", id)
}
