/* The protocol of reliq between consumers and Redis, for the model checker Spin. README.md, beside this
   file, explains it to somebody who has never read a model; scripts/model runs it.

   Rules of the model, before any code:

   1. Redis runs one command or script at a time, so each of them is one d_step here. Everything else may
      happen between any two steps of anybody: a process that is stopped (SIGSTOP, a long pause, a slow
      network) is simply one that makes no step for a while.
   2. Every list and set is a set of messages of its own (bit m is message m). That a message is in exactly
      one of them is therefore not built in: it is checked after every step (ONE_PLACE).
   3. A trip's number is kept as its relation to the number in the session record, which is all that the
      script looks at: next (runs), last (is answered again), old (changes nothing).
   4. Time is two bits per consumer: `fresh`, what the consumer believes, and `lease`, what Redis says. A lease
      ends only after the belief has ended, because the belief counts from sending and ends earlier. So nobody
      expires who is not silent, and everybody can be silent at any moment, as long as FAULTS lasts.
   5. Each fault takes one from `faults`. When none is left, all has healed, and everything must drain.

   Broken variants are chosen with -D (see the list in scripts/model); each must yield a counterexample. */

#ifndef CONSUMERS
#define CONSUMERS 2
#endif
#ifndef MESSAGES
#define MESSAGES 2
#endif
#ifndef FAULTS
#define FAULTS 2 /* pauses, lost replies, cut connections, repeated puts, failed goodbyes */
#endif
#ifndef CRASHES
#define CRASHES 1 /* consumers from 0 on that may die; the last one never does */
#endif
#ifndef LEAVES
#define LEAVES 1 /* goodbyes */
#endif
#ifndef MOVES
#define MOVES 1 /* retries and releases that handlers ask for */
#endif
#ifndef SLOTS
#define SLOTS 1 /* messages that one consumer claims at most */
#endif
#ifndef LOSSES
#define LOSSES 2 /* losses before POISON */
#endif

#define ALL ((1 << MESSAGES) - 1)
#define BIT(m) (1 << (m))
#define HAS(set, m) (((set) >> (m)) & 1)
#define ADD(set, m) set = set | BIT(m)
#define DROP(set, m) set = set & (255 - BIT(m))
#define SIZE(set) (((set) & 1) + (((set) >> 1) & 1) + (((set) >> 2) & 1))
#define NONE 7 /* no message */

/* verbs */
#define ACK 1
#define RETRY 2
#define RELEASE 3
/* an unexecuted copy of a trip on a connection that its consumer has given up; see rule 3 */
#define NEXT 1
#define LAST 2
#define OLD 3

/* ---- what is in Redis -------------------------------------------------------------------------------- */
byte ready, later, due, dead, done; /* due: the part of later whose time has come */
byte inbox[CONSUMERS], doing[CONSUMERS];
byte fence[MESSAGES], lost[MESSAGES]; /* the counters that every element carries */
byte accepted; /* puts, by the sequence of their producer */
bool registered[CONSUMERS], lease[CONSUMERS];
/* the session record: */
bool ran[CONSUMERS]; /* its trip number is that of the trip under way, and not the one before */
byte late[CONSUMERS];
byte epoch[CONSUMERS];
bool ended[CONSUMERS]; /* marked dead, or said goodbye: trips of this name change nothing */

/* ---- the trip under way: what its numbered request says ----------------------------------------------- */
typedef Trip {
  byte verb[MESSAGES], with[MESSAGES]; /* settles, and the fence in the bytes that they name */
  byte in_hand, epoch, want
}
Trip trip[CONSUMERS];

/* ---- what is in the consumers' memory ------------------------------------------------------------------ */
typedef Memory {
  byte held, waiting; /* waiting: held, and no handler has it yet */
  byte held_fence[MESSAGES];
  byte verb[MESSAGES], with[MESSAGES]; /* finished: what the next trip settles */
  byte epoch;
  /* its loop: what it does next, the answer that it has not read yet, and where it is with its goodbye */
  byte next, list, told_late, told_epoch, told_fence[MESSAGES];
  bool whole;
  byte surplus;
  bool given_back, abandoned, bell_ended;
  /* its handler: which message, and which delivery of it */
  byte job, job_fence;
  bool ours, checked, busy
}
Memory mem[CONSUMERS];
bool alive[CONSUMERS]; /* the process lives; it ends by a crash or after its goodbye */
bool watched[CONSUMERS]; /* it has crashed, and its supervisor lives and sees that */
bool fresh[CONSUMERS]; /* by its own clock its lease has margin */
bool in_time[CONSUMERS]; /* the lease that its last trip got has not ended yet */
bool silent[CONSUMERS]; /* it pauses (or the network does) for long enough to lose its lease */
bool leaving[CONSUMERS];
bool asking[CONSUMERS]; /* a trip is unanswered */
byte at_work[CONSUMERS]; /* the message that the handler has in hand, as its supervisor sees it (a set) */

/* ---- what is on the way -------------------------------------------------------------------------------- */
bool bell[CONSUMERS]; /* a BLMOVE whose consumer waits for it */
bool bell_ghost[CONSUMERS]; /* a BLMOVE of a connection that its consumer has lost */
byte trip_ghost[CONSUMERS];

byte faults = FAULTS, crashes = CRASHES, leaves = LEAVES, moves = MOVES;

/* ---- what only the checks know ------------------------------------------------------------------------- */
byte completed; /* a handler has finished it */
byte claimed_at[MESSAGES]; /* fence of its last claim */
byte handed[MESSAGES]; /* fences with which it was handed to a handler */
byte took[CONSUMERS]; /* settles of the trip under way that were accepted */
bool gone[CONSUMERS]; /* Redis knows that it is gone: it said goodbye, or its supervisor saw it die */
bool left[CONSUMERS]; /* its goodbye was answered with: nothing is left of you */

hidden byte i, j, n, taken, number, status, listed, whole; /* scratch inside one step */

#define DRAINED (accepted == ALL && (done | dead) == ALL)
ltl drains { <> DRAINED }

/* I1, I2: what was accepted is in exactly one place, what was not is nowhere. */
inline ONE_PLACE() {
  for (i : 0 .. MESSAGES - 1) {
    n = HAS(ready, i) + HAS(later, i) + HAS(dead, i) + HAS(done, i);
    for (j : 0 .. CONSUMERS - 1) {
      n = n + HAS(inbox[j], i) + HAS(doing[j], i)
    }
    assert(n == HAS(accepted, i))
  }
  i = 0; j = 0; n = 0
}

/* ---- scripts ------------------------------------------------------------------------------------------- */

/* put.lua: the producer's sequence says whether this put was here before */
inline PUT(m) {
  if
#ifndef NO_PUT_SEQUENCE
  :: HAS(accepted, m)
#endif
  :: else ->
    assert(!HAS(ready | later | dead | done, m)); /* I7: no second copy */
    ADD(accepted, m); ADD(ready, m); fence[m] = 1
  fi
}

/* Element m goes back: every return bumps its fence. */
inline BUMP(m) {
#ifndef NO_FENCE_BUMP
  fence[m] = fence[m] + 1
#else
  skip
#endif
}

/* It has reached its end: its counters mean nothing any more (and would only multiply the states). */
inline FORGET_HISTORY(m) {
  fence[m] = 0; lost[m] = 0; claimed_at[m] = 0; handed[m] = 0
}

/* trip.lua, the part that settles: only what is in the processing list, by exact bytes (its fence) */
inline SETTLE(c) {
  late[c] = 0;
  for (i : 0 .. MESSAGES - 1) {
    if
    :: trip[c].verb[i] == 0
    :: trip[c].verb[i] != 0 && HAS(doing[c], i) && fence[i] == trip[c].with[i] ->
      ADD(took[c], i);
      DROP(doing[c], i);
      if
      :: trip[c].verb[i] == ACK ->
        assert(!HAS(done, i)); /* I3: at most one accepted ack */
        assert(HAS(completed, i)); /* I1: nothing is removed before a handler has finished it */
        ADD(done, i); FORGET_HISTORY(i)
      :: trip[c].verb[i] == RETRY -> BUMP(i); ADD(later, i)
      :: trip[c].verb[i] == RELEASE -> BUMP(i); ADD(ready, i)
      fi
    :: else ->
      ADD(late[c], i)
#ifdef LATE_SETTLE_MOVES /* a retry that does not look whether the message is still there */
      ; if
      :: trip[c].verb[i] == RETRY -> ADD(later, i)
      :: trip[c].verb[i] == RELEASE -> ADD(ready, i)
      :: else
      fi
#endif
    fi
  }
}

/* trip.lua, the part that claims: the inbox goes back to ready first, so that there is one way to claim */
inline CLAIM(c) {
  ready = ready | due; later = later & (255 - due); due = 0;
  ready = ready | inbox[c]; inbox[c] = 0;
  n = trip[c].want;
  taken = 0;
  for (i : 0 .. MESSAGES - 1) {
    if
    :: n > 0 && HAS(ready, i) ->
      assert(!HAS(done, i)); /* I5: no claim after an accepted ack */
      assert(fence[i] > claimed_at[i]); /* I3: fences strictly grow */
      claimed_at[i] = fence[i];
      assert(!gone[c]); /* nothing is claimed for a name that is known to be gone */
      DROP(ready, i); ADD(taken, i); n--
    :: else
    fi
  }
  n = 0
#ifndef NON_ATOMIC_CLAIM
  ; doing[c] = doing[c] | taken
#endif
}
#ifdef NO_EPOCH
#define EPOCH_DIFFERS(c) false
#else
#define EPOCH_DIFFERS(c) (epoch[c] != trip[c].epoch)
#endif

/* trip.lua. Its answer: status ('o'k, 'a'gain or 'd'ead), listed, and whether that is the whole list */
inline TRIP(c, number) {
  whole = false; listed = 0;
  if
  :: ended[c] -> status = 'd'
#ifndef NO_SEQUENCE
  :: !ended[c] && (number == LAST || (number == NEXT && ran[c])) ->
    status = 'a'; registered[c] = true; lease[c] = true;
    whole = true; listed = doing[c]
#endif
  :: else ->
    status = 'o'; registered[c] = true; lease[c] = true;
    n = SIZE(doing[c]);
    whole = (n != trip[c].in_hand || EPOCH_DIFFERS(c));
    SETTLE(c);
    CLAIM(c);
    ran[c] = true;
    if
    :: trip_ghost[c] == NEXT -> trip_ghost[c] = LAST
#ifdef NO_SEQUENCE
    :: trip_ghost[c] == LAST -> trip_ghost[c] = OLD
#else
    :: trip_ghost[c] == LAST -> trip_ghost[c] = 0 /* an old one changes nothing, as the script says first of all */
#endif
    :: else
    fi;
    listed = (whole -> doing[c] : taken)
  fi
}

/* reap.lua, the part that moves. what_started: the message that a handler had in hand, ALL if unknown */
inline TAKE_BACK(c, what_started) {
  if
  :: (inbox[c] | doing[c]) != 0 ->
    epoch[c] = epoch[c] + 1;
#ifndef REAPER_FORGETS_INBOX
    ready = ready | inbox[c]; inbox[c] = 0; /* it never reached a handler and counts nothing */
#endif
    for (i : 0 .. MESSAGES - 1) {
      if
      :: HAS(doing[c], i) ->
        DROP(doing[c], i);
        BUMP(i);
        if
        :: HAS(what_started, i) -> lost[i] = lost[i] + 1
        :: else
        fi;
        if
        :: lost[i] >= LOSSES -> ADD(dead, i); FORGET_HISTORY(i)
        :: else -> ADD(ready, i)
        fi
      :: else
      fi
    }
  :: else
  fi
}

/* ---- a consumer: its loop ------------------------------------------------------------------------------- */

#if MESSAGES == 1
#define FINISHED(c) (mem[c].verb[0] != 0)
#elif MESSAGES == 2
#define FINISHED(c) (mem[c].verb[0] != 0 || mem[c].verb[1] != 0)
#else
#define FINISHED(c) (mem[c].verb[0] != 0 || mem[c].verb[1] != 0 || mem[c].verb[2] != 0)
#endif
#define FREE(c) (!leaving[c] && SIZE(mem[c].held) < SLOTS)
/* A trip is due: to settle, to renew, to claim (idle consumers ask now and then, whatever became of the bell). */
#define DUE(c) (FINISHED(c) || !fresh[c] || inbox[c] != 0 || (FREE(c) && (ready | due) != 0))

/* core/consumer.py trip(): what finished, what we believe to hold, how many we want */
inline BUILD(c) {
  n = SLOTS - SIZE(mem[c].held);
  for (i : 0 .. MESSAGES - 1) {
    trip[c].verb[i] = mem[c].verb[i]; trip[c].with[i] = mem[c].with[i];
    n = n + (mem[c].verb[i] != 0 && HAS(mem[c].held, i) && mem[c].held_fence[i] == mem[c].with[i]);
    mem[c].verb[i] = 0; mem[c].with[i] = 0
  }
  trip[c].in_hand = SIZE(mem[c].held);
  trip[c].epoch = mem[c].epoch;
  trip[c].want = (leaving[c] -> 0 : n);
  ran[c] = false; asking[c] = true; took[c] = 0; n = 0
}

/* core/consumer.py answered(), all but the confirmation of the lease */
inline DIGEST(c) {
  mem[c].epoch = mem[c].told_epoch;
  if
  :: mem[c].told_epoch == epoch[c] -> mem[c].epoch = 0; epoch[c] = 0 /* only equality counts; keep the numbers small */
  :: else
  fi;
  for (i : 0 .. MESSAGES - 1) {
    if
    :: trip[c].verb[i] != 0 ->
      /* the answer tells the truth: an accepted settle is never called late, nor a late one accepted */
      assert(HAS(mem[c].told_late, i) != HAS(took[c], i));
      if
      :: HAS(mem[c].held, i) && mem[c].held_fence[i] == trip[c].with[i] -> DROP(mem[c].held, i)
      :: else
      fi
    :: else
    fi;
    trip[c].verb[i] = 0; trip[c].with[i] = 0
  }
  trip[c].in_hand = 0; trip[c].epoch = 0; trip[c].want = 0;
#ifndef NO_RECONCILE
  for (i : 0 .. MESSAGES - 1) { /* what we held and is not in the whole list: lost */
    if
    :: mem[c].whole && HAS(mem[c].held, i) && !(HAS(mem[c].list, i) && mem[c].told_fence[i] == mem[c].held_fence[i]) ->
      DROP(mem[c].held, i); DROP(mem[c].waiting, i); DROP(mem[c].surplus, i)
    :: else
    fi
  }
#endif
  for (i : 0 .. MESSAGES - 1) { /* what is there and we did not know about */
    if
    :: HAS(mem[c].list, i) && !HAS(mem[c].held, i) ->
      ADD(mem[c].held, i); mem[c].held_fence[i] = mem[c].told_fence[i];
      if
      :: mem[c].given_back -> ADD(mem[c].surplus, i)
      :: else -> ADD(mem[c].waiting, i)
      fi
    :: else
    fi;
    if
    :: !HAS(mem[c].held, i) -> mem[c].held_fence[i] = 0
    :: else
    fi;
    mem[c].told_fence[i] = 0
  }
#ifdef FLUSH_DROPS_MESSAGES /* what a repeated trip brings while it says goodbye is not given back */
  if
  :: mem[c].given_back -> mem[c].surplus = 0
  :: else
  fi;
#endif
  mem[c].list = 0; mem[c].whole = false; mem[c].told_late = 0; mem[c].told_epoch = 0; took[c] = 0; late[c] = 0; asking[c] = false
}

/* The lease counts from sending: if it has ended meanwhile, this answer confirms nothing. */
inline CONFIRM_LEASE(c) {
  fresh[c] = in_time[c]; silent[c] = silent[c] && !fresh[c];
  bell[c] = bell[c] || (!leaving[c] && mem[c].held == 0) /* idle: wait in BLMOVE */
}

/* The process ends, and with it all that it knew. */
inline END_OF_PROCESS(c) {
  alive[c] = false; fresh[c] = false; silent[c] = false; asking[c] = false; leaving[c] = false;
  took[c] = 0; late[c] = 0;
  mem[c].held = 0; mem[c].waiting = 0; mem[c].epoch = 0;
  mem[c].next = 0; mem[c].list = 0; mem[c].told_late = 0; mem[c].told_epoch = 0; mem[c].whole = false;
  mem[c].surplus = 0; mem[c].given_back = false; mem[c].abandoned = false; mem[c].bell_ended = false;
  mem[c].job = 0; mem[c].job_fence = 0; mem[c].ours = false; mem[c].checked = false; mem[c].busy = false;
  for (i : 0 .. MESSAGES - 1) {
    mem[c].held_fence[i] = 0; mem[c].verb[i] = 0; mem[c].with[i] = 0; mem[c].told_fence[i] = 0;
    if
    :: trip_ghost[c] != NEXT -> trip[c].verb[i] = 0; trip[c].with[i] = 0
    :: else
    fi
  }
  if
  :: trip_ghost[c] != NEXT -> trip[c].in_hand = 0; trip[c].epoch = 0; trip[c].want = 0
  :: else
  fi;
  i = 0
}

/* Put back what is held; what has finished was settled before. No handler takes it any more. */
inline GIVE_BACK(c, which) {
  for (i : 0 .. MESSAGES - 1) {
    if
    :: HAS(which, i) -> mem[c].verb[i] = RELEASE; mem[c].with[i] = mem[c].held_fence[i]; DROP(mem[c].waiting, i)
    :: else
    fi
  }
  i = 0 /* (a d_step must not end in a branch) */
}

/* what the loop is about to do */
#define THINK 0
#define SEND 1
#define READ 2
#define CONFIRM 3
#define END_BELL 4
#define LEAVE 5
#define GONE 6
#define MOVE_LATER 7 /* only in NON_ATOMIC_CLAIM */

proctype Loop(byte c) {
  do
  /* -- nothing is under way -- */
  :: d_step { mem[c].next == THINK && alive[c] && DUE(c) && !(mem[c].given_back && !FINISHED(c)) -> BUILD(c); mem[c].next = SEND }
  :: d_step { mem[c].next == THINK && alive[c] && leaving[c] && !mem[c].given_back && !FINISHED(c) &&
        (at_work[c] == 0 || faults > 0) ->
      if
      :: at_work[c] != 0 -> faults-- /* the grace is over: the handler is stuck */
      :: else
      fi;
      mem[c].given_back = true;
      GIVE_BACK(c, mem[c].held)
    }
  :: d_step { mem[c].next == SEND && alive[c] && leaving[c] && !mem[c].given_back && !FINISHED(c) && faults > 0 ->
      faults--; mem[c].given_back = true; /* the grace is over while a trip is unanswered */
      GIVE_BACK(c, mem[c].held)
    }
  :: d_step { mem[c].next == THINK && alive[c] && mem[c].given_back && mem[c].surplus != 0 && !FINISHED(c) ->
      GIVE_BACK(c, mem[c].surplus); mem[c].surplus = 0 /* the answer to an earlier trip has brought more */
    }
  :: d_step { mem[c].next == THINK && alive[c] && mem[c].given_back && mem[c].surplus == 0 && !FINISHED(c) -> mem[c].next = END_BELL }

  /* -- a trip is unanswered: the very same is sent until it is answered -- */
  :: d_step { mem[c].next == SEND && alive[c] ->
      TRIP(c, NEXT);
      assert(status == 'o' || status == 'a'); /* nobody who lives is told that he is dead */
      in_time[c] = true;
      mem[c].list = listed; mem[c].whole = whole; mem[c].told_late = late[c]; mem[c].told_epoch = epoch[c];
      for (i : 0 .. MESSAGES - 1) {
        mem[c].told_fence[i] = (HAS(mem[c].list, i) -> fence[i] : 0)
      }
      ONE_PLACE();
#ifdef NON_ATOMIC_CLAIM
      mem[c].next = MOVE_LATER
#else
      mem[c].next = READ
#endif
    }
  :: d_step { mem[c].next == MOVE_LATER && alive[c] -> doing[c] = doing[c] | mem[c].list; mem[c].next = READ }
  :: d_step { mem[c].next == SEND && alive[c] && faults > 0 && !ran[c] && trip_ghost[c] == 0 ->
      faults--; trip_ghost[c] = NEXT /* the connection is cut; the copy on it may still be executed, or not */
    }
  :: d_step { mem[c].next == SEND && alive[c] && faults > 0 && leaving[c] ->
      if
      :: !ran[c] && trip_ghost[c] == 0 -> trip_ghost[c] = NEXT
      :: else
      fi;
      faults--; mem[c].abandoned = true; mem[c].given_back = true; mem[c].waiting = 0; mem[c].next = END_BELL /* Redis does not answer for the timeout: go without */
    }
  :: d_step { mem[c].next == READ && alive[c] && faults > 0 -> /* the reply is lost */
      faults--; mem[c].next = SEND;
      mem[c].list = 0; mem[c].whole = false; mem[c].told_late = 0; mem[c].told_epoch = 0;
      for (i : 0 .. MESSAGES - 1) {
        mem[c].told_fence[i] = 0
      }
      i = 0
    }
#ifdef CONFIRM_BEFORE_RECONCILE
  :: d_step { mem[c].next == READ && alive[c] -> CONFIRM_LEASE(c); mem[c].next = CONFIRM }
  :: d_step { mem[c].next == CONFIRM && alive[c] -> DIGEST(c); mem[c].next = THINK }
#elif defined(SPLIT)
  :: d_step { mem[c].next == READ && alive[c] -> DIGEST(c); mem[c].next = CONFIRM }
  :: d_step { mem[c].next == CONFIRM && alive[c] -> CONFIRM_LEASE(c); mem[c].next = THINK }
#else
  :: d_step { mem[c].next == READ && alive[c] -> DIGEST(c); CONFIRM_LEASE(c); mem[c].next = THINK }
#endif

  /* -- goodbye -- */
  :: d_step { mem[c].next == END_BELL && alive[c] -> /* end the own BLMOVEs, also those whose reply was lost */
      mem[c].bell_ended = true; bell[c] = false; mem[c].next = LEAVE;
#ifndef LEAVE_WITH_BELL_UNDER_WAY
      bell_ghost[c] = false
#endif
    }
  :: d_step { mem[c].next == END_BELL && alive[c] && faults > 0 -> /* that could not be done, or is not certain */
      faults--; bell_ghost[c] = bell_ghost[c] || bell[c]; bell[c] = false; mem[c].next = LEAVE
    }
  :: d_step { mem[c].next == LEAVE && alive[c] -> /* leave.lua */
      assert(mem[c].abandoned || doing[c] == 0); /* it leaves nothing behind */
      ready = ready | inbox[c]; inbox[c] = 0;
      gone[c] = true;
#ifdef LEAVE_FORGETS_TRIPS /* the record goes with the registration: then an old copy looks like a new trip */
      ran[c] = false;
      if
      :: trip_ghost[c] != 0 -> trip_ghost[c] = NEXT
      :: else
      fi;
#else
      ended[c] = true;
#endif
      if
      :: doing[c] == 0 && mem[c].bell_ended -> registered[c] = false; lease[c] = false; left[c] = true
      :: else
      fi;
      ONE_PLACE();
      mem[c].next = GONE
    }
  :: d_step { mem[c].next == LEAVE && alive[c] && faults > 0 -> faults--; mem[c].next = GONE } /* its lease ends by itself */
  :: d_step { mem[c].next == GONE && alive[c] -> at_work[c] = 0; END_OF_PROCESS(c) }
  od
}

/* ---- a consumer: its handler ---------------------------------------------------------------------------- */

/* running.py _may_start: first the lease, ... */
inline READ_CLOCK(c) {
  mem[c].job = (HAS(mem[c].waiting, 0) -> 0 : (HAS(mem[c].waiting, 1) -> 1 : MESSAGES - 1));
  mem[c].job_fence = mem[c].held_fence[mem[c].job];
  mem[c].ours = HAS(doing[c], mem[c].job) && fence[mem[c].job] == mem[c].job_fence
}

/* ... then whether it was lost. When its clock was read, the message was its own. */
inline START(c) {
  assert(mem[c].ours);
  DROP(mem[c].waiting, mem[c].job);
  if
  :: HAS(done | dead, mem[c].job)
  :: else -> assert(!HAS(handed[mem[c].job], mem[c].job_fence)); ADD(handed[mem[c].job], mem[c].job_fence) /* a delivery reaches one handler, once */
  fi;
#ifdef ACK_BEFORE_WORK
  mem[c].verb[mem[c].job] = ACK; mem[c].with[mem[c].job] = mem[c].job_fence;
#endif
  ADD(at_work[c], mem[c].job); mem[c].busy = true; mem[c].checked = false; mem[c].ours = false
}

inline COME_BACK(c) {
  ADD(completed, mem[c].job); DROP(at_work[c], mem[c].job); mem[c].job = 0; mem[c].job_fence = 0; mem[c].busy = false
}

#ifdef DELIVER_WITHOUT_CHECK
#define MAY_START(c) (mem[c].waiting != 0)
#else
#define MAY_START(c) (mem[c].waiting != 0 && fresh[c])
#endif

/* A pause between the check and the first line of the handler (DESIGN 9.1: a check is not a hold) is for all
   others the same as a pause inside the handler. -DSPLIT takes the check itself apart. */
proctype Handler(byte c) {
  do
#ifdef SPLIT
  :: d_step { !mem[c].busy && !mem[c].checked && alive[c] && MAY_START(c) -> READ_CLOCK(c); mem[c].checked = true }
  :: d_step { mem[c].checked && alive[c] && HAS(mem[c].waiting, mem[c].job) && mem[c].held_fence[mem[c].job] == mem[c].job_fence -> START(c) }
  :: d_step { mem[c].checked && alive[c] && !(HAS(mem[c].waiting, mem[c].job) && mem[c].held_fence[mem[c].job] == mem[c].job_fence) ->
      mem[c].job = 0; mem[c].job_fence = 0; mem[c].ours = false; mem[c].checked = false
    }
#else
  :: d_step { !mem[c].busy && alive[c] && MAY_START(c) -> READ_CLOCK(c); START(c) }
#endif
#ifdef ACK_BEFORE_WORK
  :: d_step { mem[c].busy && alive[c] -> COME_BACK(c) }
#else
  :: d_step { mem[c].busy && alive[c] && mem[c].verb[mem[c].job] == 0 ->
      mem[c].verb[mem[c].job] = ACK; mem[c].with[mem[c].job] = mem[c].job_fence; COME_BACK(c)
    }
  :: d_step { mem[c].busy && alive[c] && mem[c].verb[mem[c].job] == 0 && moves > 0 ->
      moves--; mem[c].verb[mem[c].job] = RETRY; mem[c].with[mem[c].job] = mem[c].job_fence; COME_BACK(c)
    }
  :: d_step { mem[c].busy && alive[c] && mem[c].verb[mem[c].job] == 0 && moves > 0 ->
      moves--; mem[c].verb[mem[c].job] = RELEASE; mem[c].with[mem[c].job] = mem[c].job_fence; COME_BACK(c)
    }
#endif
  od
}

/* ---- reapers ----------------------------------------------------------------------------------------------- */

#ifdef REAP_IGNORES_LEASE /* it trusts the list of expired consumers that it has read a while ago */
#define LEASE_IS_OVER(c) true
#else
#define LEASE_IS_OVER(c) (!lease[c])
#endif
#define HOLDS(c) ((inbox[c] | doing[c]) != 0)

/* ---- the world: producers, clocks, the network, death, supervisors ---------------------------------------- */

inline FORGET_COPY(c) {
  if
  :: !alive[c] ->
    for (i : 0 .. MESSAGES - 1) {
      trip[c].verb[i] = 0; trip[c].with[i] = 0
    }
    trip[c].in_hand = 0; trip[c].epoch = 0; trip[c].want = 0; ran[c] = false
  :: else
  fi;
  i = 0
}

/* What it had sent may still be executed. */
inline CRASH(c) {
  bell_ghost[c] = bell_ghost[c] || bell[c]; bell[c] = false;
  if
  :: asking[c] && !ran[c] && trip_ghost[c] == 0 -> trip_ghost[c] = NEXT
  :: else
  fi;
  END_OF_PROCESS(c)
}

proctype World(byte c) {
  do
  /* the network: BLMOVEs are executed, those of lost connections too; or such a connection ends */
  :: d_step { (bell[c] || bell_ghost[c]) && ready != 0 ->
      assert(!left[c]); /* nothing arrives at a name that was told that nothing is left of it */
      if
      :: bell[c] -> bell[c] = false
      :: else -> bell_ghost[c] = false
      fi;
      n = (HAS(ready, 0) -> 0 : (HAS(ready, 1) -> 1 : MESSAGES - 1));
#ifdef BELL_INTO_DOING /* one processing list for BLMOVE and for trips */
      DROP(ready, n); ADD(doing[c], n); claimed_at[n] = fence[n];
#else
      DROP(ready, n); ADD(inbox[c], n);
#endif
      ONE_PLACE()
    }
  :: d_step { bell_ghost[c] -> bell_ghost[c] = false }
  :: d_step { alive[c] && bell[c] && !bell_ghost[c] && faults > 0 && !DRAINED -> faults--; bell[c] = false; bell_ghost[c] = true }
  /* an old copy of a trip is executed, and nobody reads the answer */
  :: d_step { trip_ghost[c] != 0 ->
      number = trip_ghost[c]; trip_ghost[c] = 0;
      TRIP(c, number);
      FORGET_COPY(c);
      ONE_PLACE()
    }
  :: d_step { trip_ghost[c] != 0 -> trip_ghost[c] = 0; FORGET_COPY(c) }
  /* time */
  :: d_step { later != due -> due = later }
  :: d_step { alive[c] && !silent[c] && lease[c] && faults > 0 && (HOLDS(c) || asking[c]) -> faults--; silent[c] = true; fresh[c] = false }
  :: d_step { lease[c] && !fresh[c] && (silent[c] || !alive[c]) ->
      lease[c] = false; in_time[c] = false; silent[c] = false
    }
  /* Reapers: any number of them, at any time, and repeated: reap.lua looks for itself, and a reaper remembers
     nothing from one call to the next, so "somebody calls it" is all there is to them. */
  :: d_step { registered[c] && LEASE_IS_OVER(c) && HOLDS(c) ->
      assert(!fresh[c]); /* nobody is reaped by lease who knows that he has it */
      TAKE_BACK(c, ALL);
      ONE_PLACE()
    }
#ifndef NO_STRAY_ADOPTION
  :: d_step { !registered[c] && HOLDS(c) -> registered[c] = true; lease[c] = true }
#endif
  :: d_step { registered[c] && !lease[c] && !alive[c] && !HOLDS(c) -> registered[c] = false; epoch[c] = 0 } /* long after */
  /* death */
  :: d_step { alive[c] && c < CONSUMERS - 1 && crashes > 0 && !DRAINED -> /* a process; its supervisor sees it */
      crashes--; watched[c] = true; CRASH(c)
    }
  :: d_step { alive[c] && c < CONSUMERS - 1 && crashes > 0 && !DRAINED -> /* the whole host */
      crashes--; at_work[c] = 0; CRASH(c)
    }
  :: d_step { watched[c] && (!gone[c] || HOLDS(c)) -> /* its supervisor reaps it, and once more later */
      gone[c] = true; /* reap.lua, called with 'dead' */
#ifndef NO_DEAD_MARK
      ended[c] = true;
#endif
      registered[c] = true; lease[c] = false;
      TAKE_BACK(c, at_work[c]);
      at_work[c] = 0; epoch[c] = 0;
      ONE_PLACE()
    }
  :: d_step { alive[c] && !leaving[c] && c < CONSUMERS - 1 && leaves > 0 && !DRAINED -> leaves--; leaving[c] = true }
  od
}

/* One producer, whose puts are numbered; a put without an answer is repeated, and either copy may come late. */
proctype Producer() {
  byte m;

  do
  :: d_step { m < MESSAGES -> PUT(m); ONE_PLACE(); m++ }
  :: d_step { m > 0 && faults > 0 && !DRAINED -> faults--; PUT(m - 1); ONE_PLACE() }
  od
}

init {
  atomic {
    byte k;
    for (k : 0 .. CONSUMERS - 1) {
      alive[k] = true;
      run Loop(k); run Handler(k); run World(k)
    }
    run Producer();
    k = 0
  }
}
