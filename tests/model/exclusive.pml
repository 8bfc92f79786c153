/* Exclusive mode (DESIGN 9.20): one holder of a lock reads a batch from the right end of the list, works, and
   trims the batch off. This is the rule that the code has to follow; README.md explains how to read a model.

   The list is order[0 .. length-1], with its right end (the next to be read) at index 0. Anything may be
   pushed to the right at any time (a release, a revive, a user by hand). The lock's record holds: holder,
   whether its lease runs, the number of the batch, the last number that was trimmed, the batch itself. */

#define HOLDERS 2
#ifndef MESSAGES
#define MESSAGES 3
#endif
#ifndef PUSHES
#define PUSHES 1 /* of the messages, so many are pushed to the right while others work */
#endif
#ifndef FAULTS
#define FAULTS 2 /* pauses beyond the lease, lost replies, cut connections */
#endif
#ifndef POISON
#define POISON 1 /* is message 0 one that kills every process that handles it? */
#endif
#define BATCH 2
#define LOSSES 3
#define ALL ((1 << MESSAGES) - 1)
#define HAS(set, m) (((set) >> (m)) & 1)
#define ADD(set, m) set = set | (1 << (m))
#define NOBODY 7

/* ---- in Redis ---- */
byte order[MESSAGES], length;
byte fence[MESSAGES], lost[MESSAGES];
byte dead, done;
byte holder = NOBODY;
bool lease;
bool read_one; /* the batch that the record names is the one under way: read, and not trimmed */
bool trimmed; /* the last number that was trimmed is that of the batch under way */
byte recorded[BATCH], recorded_n;
byte most = BATCH; /* halved by each takeover of an unfinished batch, doubled by a finished one */

/* ---- in the holders' memory ---- */
#define LOCK 0
#define READ 1
#define WORK 2
#define TRIM 3
#define ANSWER 4
typedef Holder {
  byte next, n, at; /* at: how many of the batch are worked through */
  byte batch[BATCH], with[BATCH];
  byte reply;
  bool took; /* its trim was executed (only the checks know) */
  bool current /* its number is that of the batch under way, under its own lock */
}
Holder h[HOLDERS];

/* ---- on the way: an old copy of a trim; its batch is kept with it ---- */
typedef Copy { byte n; bool current; byte batch[BATCH], with[BATCH] }
Copy ghost[HOLDERS];

byte faults = FAULTS, pushed;
byte completed; /* by a handler; only the checks know */
byte read_before[MESSAGES]; /* fence under which an earlier holder has read it */
hidden byte i, j, k, same;
hidden byte b_n, b_current, b_batch[BATCH], b_with[BATCH]; /* what a request says */

#define DRAINED (pushed == PUSHES && (done | dead) == ALL)
ltl drains { <> DRAINED }

inline ONE_PLACE() {
  for (i : 0 .. MESSAGES - 1) {
    k = HAS(done, i) + HAS(dead, i);
    j = 0;
    do
    :: j < length -> k = k + (order[j] == i); j++
    :: else -> break
    od;
    assert(k == (i < MESSAGES - PUSHES + pushed))
  }
  i = 0; j = 0; k = 0
}

inline REMOVE_RIGHT(count) {
  i = 0;
  do
  :: i < MESSAGES -> order[i] = (i + count < length -> order[(i + count < MESSAGES -> i + count : 0)] : 0); i++
  :: else -> break
  od;
  length = (count < length -> length - count : 0); i = 0
}

/* The lock changes hands. What its last holder had read and not trimmed counts as lost once. */
inline TAKE_OVER(c) {
  if
  :: read_one ->
    most = (recorded_n > 1 -> recorded_n / 2 : 1);
    for (i : 0 .. BATCH - 1) {
      if
      :: i < recorded_n && !HAS(done | dead, recorded[i]) ->
        read_before[recorded[i]] = fence[recorded[i]];
#ifndef TAKEOVER_WITHOUT_BUMP
        fence[recorded[i]] = fence[recorded[i]] + 1;
#endif
        lost[recorded[i]] = lost[recorded[i]] + 1
      :: else
      fi
    }
  :: else
  fi;
  /* the poison has shown itself: it is at the right end of a batch of one */
  if
  :: length > 0 && lost[order[0]] >= LOSSES ->
    ADD(dead, order[0]); REMOVE_RIGHT(1)
  :: else
  fi;
  holder = c; lease = true; read_one = false; trimmed = false; recorded_n = 0;
  recorded[0] = 0; recorded[1] = 0;
  for (i : 0 .. HOLDERS - 1) {
    ghost[i].current = false; h[i].current = false
  }
  i = 0
}

inline READ_BATCH(c) {
  h[c].n = (length < most -> length : most); h[c].at = 0;
  recorded_n = h[c].n; read_one = (h[c].n > 0); trimmed = false;
  for (i : 0 .. BATCH - 1) {
    h[c].batch[i] = (i < h[c].n -> order[i] : 0); h[c].with[i] = (i < h[c].n -> fence[order[i]] : 0);
    recorded[i] = h[c].batch[i];
    assert(h[c].n <= i || h[c].with[i] > read_before[h[c].batch[i]]) /* I3: fences strictly grow */
  }
  h[c].current = true; ghost[c].current = false; /* a new number */
  i = 0
}

/* The script; what the request says is in b_. k: 1 trimmed, 2 nothing removed: read again, 3 the lock is not yours, or an old number */
inline TRIM_BATCH(c) {
  same = 1;
  for (i : 0 .. BATCH - 1) {
    if
    :: i < b_n && !(i < length && order[i] == b_batch[i] && fence[order[i]] == b_with[i]) -> same = 0
    :: else
    fi
  }
  if
#ifndef TRIM_WITHOUT_LOCK
  :: holder != c || !b_current -> k = 3
#endif
#ifndef TRIM_WITHOUT_NUMBER
  :: holder == c && b_current && trimmed -> k = 1 /* a repeat: the stored reply */
#endif
  :: else ->
    if
#ifndef TRIM_WITHOUT_COMPARE
    :: !same -> k = 2
#endif
    :: else ->
      for (i : 0 .. BATCH - 1) {
        if
        :: i < b_n && i < length ->
          assert(HAS(completed, order[i])); /* nothing is removed that nobody has read and finished */
          assert(holder == c); /* nor by one who lost the lock */
          ADD(done, order[i]); fence[order[i]] = 0; lost[order[i]] = 0; read_before[order[i]] = 0
        :: else
        fi
      }
      REMOVE_RIGHT(b_n);
      h[c].took = b_current; trimmed = true; read_one = false; recorded_n = 0; recorded[0] = 0; recorded[1] = 0; most = BATCH; k = 1
    fi
  fi;
  same = k; ONE_PLACE(); k = same
}

inline NO_COPY(c) {
  ghost[c].n = 0; ghost[c].current = false;
  ghost[c].batch[0] = 0; ghost[c].batch[1] = 0; ghost[c].with[0] = 0; ghost[c].with[1] = 0
}

inline FORGET(c) {
  h[c].current = false; h[c].took = false; h[c].next = LOCK; h[c].n = 0; h[c].at = 0; h[c].reply = 0;
  h[c].batch[0] = 0; h[c].batch[1] = 0; h[c].with[0] = 0; h[c].with[1] = 0
}

proctype Consumer(byte c) {
  do
  :: d_step { h[c].next == LOCK && (holder == NOBODY || !lease || holder == c) && !DRAINED ->
      TAKE_OVER(c); ONE_PLACE(); h[c].next = READ
    }
  :: d_step { h[c].next == READ && holder == c && length > 0 -> lease = true; READ_BATCH(c); h[c].next = WORK }
  :: d_step { h[c].next == READ && holder != c -> FORGET(c) }
  :: d_step { h[c].next == WORK && h[c].at < h[c].n && !(POISON && h[c].batch[h[c].at] == 0) ->
      ADD(completed, h[c].batch[h[c].at]); h[c].at = h[c].at + 1
    }
  :: d_step { h[c].next == WORK && h[c].at < h[c].n && POISON && h[c].batch[h[c].at] == 0 ->
      if
      :: holder == c -> lease = false /* it dies, a new process takes its place; in the end the lease is over */
      :: else
      fi;
      FORGET(c)
    }
  :: d_step { h[c].next == WORK && h[c].at == h[c].n -> h[c].next = TRIM }
  :: d_step { h[c].next == TRIM ->
      b_n = h[c].n; b_current = h[c].current;
      for (i : 0 .. BATCH - 1) {
        b_batch[i] = h[c].batch[i]; b_with[i] = h[c].with[i]
      }
      TRIM_BATCH(c);
      h[c].reply = k; h[c].next = ANSWER; k = 0
    }
  :: d_step { h[c].next == TRIM && faults > 0 && ghost[c].n == 0 -> /* cut off; it may still be executed */
      faults--; ghost[c].n = h[c].n; ghost[c].current = h[c].current;
      for (i : 0 .. BATCH - 1) {
        ghost[c].batch[i] = h[c].batch[i]; ghost[c].with[i] = h[c].with[i]
      }
      i = 0
    }
  :: d_step { h[c].next == ANSWER && faults > 0 -> faults--; h[c].reply = 0; h[c].next = TRIM } /* reply lost */
  :: d_step { h[c].next == ANSWER && h[c].reply == 3 -> FORGET(c) }
  :: d_step { h[c].next == ANSWER && h[c].reply == 2 ->
      assert(!h[c].took); /* the answer tells the truth: what was trimmed is not called untrimmed */
      FORGET(c); h[c].next = READ
    }
  :: d_step { h[c].next == ANSWER && h[c].reply == 1 -> FORGET(c); h[c].next = READ }
  /* it pauses for longer than its lease */
  :: d_step { holder == c && lease && faults > 0 && !DRAINED -> faults--; lease = false }
  /* an old copy of its trim is executed, or not */
  :: d_step { ghost[c].n > 0 ->
      b_n = ghost[c].n; b_current = ghost[c].current;
      for (i : 0 .. BATCH - 1) {
        b_batch[i] = ghost[c].batch[i]; b_with[i] = ghost[c].with[i]
      }
      TRIM_BATCH(c); k = 0;
      NO_COPY(c)
    }
  :: d_step { ghost[c].n > 0 -> NO_COPY(c) }
  od
}

/* Somebody pushes to the right: a release, a revive, a user by hand. */
proctype Others() {
  do
  :: d_step { pushed < PUSHES ->
      i = length;
      do
      :: i > 0 -> order[i] = order[i - 1]; i--
      :: else -> break
      od;
      order[0] = MESSAGES - PUSHES + pushed; length++; pushed++;
      fence[order[0]] = 1;
      ONE_PLACE()
    }
  od
}

init {
  d_step {
    for (i : 0 .. MESSAGES - PUSHES - 1) {
      order[i] = i; fence[i] = 1
    }
    length = MESSAGES - PUSHES; i = 0
  }
  atomic { run Consumer(0); run Consumer(1); run Others() }
}
