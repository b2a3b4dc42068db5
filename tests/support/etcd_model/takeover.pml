/* May two guests ever have one disk, whatever etcd, the network and the clocks do?
 *
 * Guest 1 owns disk A alone and reads disk B, by the rules of lockplugins/etcd: a proof is a
 * linearizable read that finds its session and both keys its own, and gives it K from the sending;
 * a session that has ended early is healed. Guest 2 wants disk A or B for itself: it takes it over
 * when it has seen the session absent for W by its own clock.
 * Time is a tick. Guest 1's clock may lose one tick in the life of a proof, guest 2's may gain one
 * in a watch; a guest that the kernel ends is dead one tick later. Requests and answers are
 * delayed at will, lost, and done after the sender has given them up; one member may freeze with
 * the state of that moment, and answers what it may.
 * Each mistake is one macro: spin finds an overlap with it, and none without.
 */

#ifndef K1
#define K1 2		/* guest 1's K */
#endif
#define K2 1		/* guest 2's own K */
#ifdef MISTAKE_WATCH_TOO_SHORT
#define WATCH(k) (k + 2)
#else
#define WATCH(k) (k + 3)	/* drift of both, the kill, and the grain of a tick */
#endif

#ifdef MISTAKE_WATCH_FROM_OWN_SETTING
#define W WATCH(K2)
#else
#define W WATCH(K1)
#endif

#define INCARNATIONS 3

/* The store, as the majority has it. `inc`: session 1's incarnation, 0 while there is none. */
byte inc = 1, last = 1;
bool keyA = true, keyB = true;	/* guest 1's owner key of A, its reader key of B */
bool changed = false;		/* the wanted key was written since guest 2's snapshot */

/* The frozen member's; it answers no linearizable read, so that to our own rules it is a loss. */
#if defined(MISTAKE_PROOF_BY_KEEPALIVE) || defined(MISTAKE_PROOF_BY_COMPARE_ONLY)
#define FREEZES
bool frozen = false, old_keyA, old_keyB;
byte old_inc;
#endif

/* Guest 1. */
bool alive1 = true, dying1 = false;
byte deadline = K1, fresh = 0;	/* ticks left of the last proof, of the one that is asked for */
bool lost_tick = false, fresh_lost = false;	/* has that clock lost its tick? */
byte mine = 1;			/* the incarnation that guest 1 knows */
bool heal_late = false;		/* a heal that was given up may still be done */

/* Guest 2. */
bool alive2 = false, wants_B = false;
byte watch = 0;
bool watching = false, gained_tick = false;

inline heal_in_store(done) {
	if
	:: inc == 0 && keyA && keyB && last < INCARNATIONS ->
		last++; inc = last; done = true;
#ifdef MISTAKE_HEAL_WITHOUT_READERS
		if :: !wants_B -> changed = true :: else fi
#else
		changed = true
#endif
	:: else -> done = false
	fi
}

proctype Guest1() {
	bool ok, absent;
	byte made;
	do
	:: !alive1 -> break
	:: alive1 && !dying1 ->
		/* A proof is asked for. */
		atomic { fresh = K1; fresh_lost = false }
		if
		:: skip -> goto given_up			/* lost */
		:: atomic {					/* done by the majority */
			ok = (inc == mine && keyA && keyB);
#ifdef MISTAKE_PROOF_BY_KEEPALIVE
			ok = (inc == mine);
#endif
			absent = (inc == 0 && keyA && keyB) }
#if defined(MISTAKE_PROOF_BY_KEEPALIVE)
		:: atomic { frozen -> ok = (old_inc == mine); absent = false }
#elif defined(MISTAKE_PROOF_BY_COMPARE_ONLY)
		:: atomic { frozen -> ok = (old_inc == mine && old_keyA && old_keyB); absent = false }
#endif
		fi;
		if
		:: atomic { ok && alive1 && !dying1 && fresh > 0 ->
#ifdef MISTAKE_ARMED_FROM_ANSWER
			fresh = K1; fresh_lost = false;
#endif
			deadline = fresh; lost_tick = fresh_lost }
		:: goto given_up				/* its answer is lost */
		:: !ok && absent ->
			atomic { fresh = K1; fresh_lost = false };
			if
			:: atomic { heal_late = true; goto given_up }
			:: atomic { heal_in_store(ok); made = last }
			fi;
			if
			:: atomic { ok -> mine = made }
			:: else
			fi;
			if
			:: atomic { ok && alive1 && !dying1 && fresh > 0 ->
#ifdef MISTAKE_ARMED_FROM_ANSWER
				fresh = K1; fresh_lost = false;
#endif
				deadline = fresh; lost_tick = fresh_lost }
			:: else
			fi
		:: else
		fi;
given_up:	/* A session that another try has healed is known by its value. */
		atomic { fresh = 0; fresh_lost = false; ok = false; absent = false; made = 0;
			if :: inc != 0 -> mine = inc :: else fi }
	od
}

proctype Guest2() {
	bool absent, same;
	if :: wants_B = true :: skip fi;
	do
	:: !alive2 ->
		/* Owner key and session are read, in one instant. */
#ifdef MISTAKE_TAKER_READS_TWICE
		absent = (inc == 0);
		atomic { same = !changed; changed = false };
#else
		atomic { absent = (inc == 0); same = !changed; changed = false };
#endif
		/* The answer arrives at some time: the watch counts from then. */
		atomic {
			if
			:: !absent -> watching = false
			:: absent && !(watching && same) ->
				watching = true; watch = W; gained_tick = false
			:: else
			fi;
			absent = false; same = false
		};
		if
		:: atomic { watching && watch == 0 ->
			/* Taken over in one transaction, or not. */
			if
			:: !changed && inc == 0 ->
				assert(!alive1);	/* guest 2 starts */
				alive2 = true;
				if :: wants_B -> keyB = false :: else -> keyA = false fi
			:: else
			fi }
		:: else
		fi
	:: alive2 -> break
	od
}

proctype Etcd() {
	do
	:: atomic { inc != 0 -> inc = 0 }		/* revoked, deleted, run out */
#ifdef FREEZES
	:: atomic { !frozen -> frozen = true;
		old_inc = inc; old_keyA = keyA; old_keyB = keyB }
#endif
	:: atomic { heal_late -> heal_late = false; bool done; heal_in_store(done) }
	od
}

proctype Clock() {
	do
	:: atomic {
		if
		:: dying1 -> alive1 = false
		:: else
		fi;
		if
		:: deadline > 0 ->
			if
			:: deadline--
			:: !lost_tick -> lost_tick = true
			fi;
			if :: deadline == 0 -> dying1 = true :: else fi
		:: else
		fi;
		if
		:: fresh > 0 ->
			if
			:: fresh--
			:: !fresh_lost -> fresh_lost = true
			fi
		:: else
		fi;
		if
		:: watching && watch > 0 ->
			watch--;
			if
			:: watch > 0 && !gained_tick -> watch--; gained_tick = true
			:: skip
			fi
		:: else
		fi }
	od
}

init {
	atomic { run Guest1(); run Guest2(); run Etcd(); run Clock() }
}
